# SPDX-License-Identifier: Apache-2.0

"""``/v1/responses``: outputs as items of a response, and as its events.

The body is made from the same items as the events, so both say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType
from typing_extensions import override

from ..outputs import CompletionDelta, RequestOutput
from ..params import SamplingParams
from .bodies import ChatBody, plain
from .errors import ErrorReply
from .parts import PartReader, Parts, ToolCallPart
from .responses_body import ResponsesBody, TextFormat, TextOptions
from .tokens import TokenLogprob, chat_logprobs
from .writer import Answering, Writer, encode

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class OutputText(Struct, kw_only=True):
    """The text of a message."""

    text: str = ""
    annotations: list[Any] = []
    logprobs: list[TokenLogprob] = []
    type: Literal["output_text"] = "output_text"


class ReasoningText(Struct, kw_only=True):
    """The text of reasoning."""

    text: str = ""
    type: Literal["reasoning_text"] = "reasoning_text"


class MessageItem(Struct, kw_only=True, tag="message", tag_field="type"):
    """The answer."""

    id: str
    content: list[OutputText]
    status: Status = "in_progress"
    role: Literal["assistant"] = "assistant"


class ReasoningItem(Struct, kw_only=True, tag="reasoning", tag_field="type"):
    """The reasoning before the answer."""

    id: str
    content: list[ReasoningText]
    summary: list[Any] = []
    status: Status = "in_progress"


class CallItem(Struct, kw_only=True, tag="function_call", tag_field="type"):
    """A call of a function."""

    id: str
    call_id: str
    name: str
    arguments: str = ""
    status: Status = "in_progress"


Item = MessageItem | ReasoningItem | CallItem


class InputTokensDetails(Struct):
    """Parts of the input tokens."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputTokensDetails(Struct):
    """Parts of the output tokens; tokens of reasoning are not counted apart."""

    reasoning_tokens: int = 0


class ResponseUsage(Struct, kw_only=True):
    """Counts of tokens."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens_details: OutputTokensDetails


class Incomplete(Struct):
    """Reason of an incomplete response."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class Failure(Struct):
    """Reason of a failed response."""

    code: Literal["server_error"]
    message: str


class Response(Struct, kw_only=True):
    """Body of the answer."""

    id: str
    created_at: int
    model: str
    output: list[Item]
    status: Status
    temperature: float
    top_p: float
    max_output_tokens: int | None
    instructions: str | None
    tools: list[Any]
    tool_choice: Any
    text: dict[str, Any]
    error: Failure | None = None
    incomplete_details: Incomplete | None = None
    metadata: dict[str, str] = {}
    parallel_tool_calls: bool = True
    previous_response_id: None = None
    background: bool = False
    store: bool = False
    truncation: Literal["disabled"] = "disabled"
    object: Literal["response"] = "response"
    usage: ResponseUsage | UnsetType = UNSET


class ResponseWriter(Writer):
    """Outputs as the items of a response.

    Args:
        answering: Facts of the request.
        body: The request.
        chat: The same as a chat.
        params: Its params.
        reader: Reads the parts of the answer.
    """

    def __init__(
        self,
        answering: Answering,
        body: ResponsesBody,
        *,
        chat: ChatBody,
        params: SamplingParams,
        reader: PartReader,
    ) -> None:
        self._body = body
        self._chat = chat
        self._reader = reader
        self._request_id = answering.request_id
        self._numbers = 0
        self._open: Item | None = None
        self._open_call: int | None = None
        self._response = Response(
            id=f"resp_{answering.request_id}",
            created_at=answering.created,
            model=answering.model,
            output=[],
            status="in_progress",
            temperature=params.temperature,
            top_p=params.top_p,
            max_output_tokens=body.max_output_tokens,
            instructions=body.instructions,
            tools=plain(body.tools or []),
            tool_choice="auto" if body.tool_choice is None else plain(body.tool_choice),
            text=plain(body.text or TextOptions(format=TextFormat())),
            parallel_tool_calls=body.parallel_tool_calls is not False,
        )

    @override
    def whole(self, outputs: Sequence[RequestOutput]) -> Response:
        [output] = outputs
        [answer] = output.outputs
        self._add(self._reader.push(answer.text))
        self._add(self._reader.finish())
        self._attach(self._logprobs(answer.token_ids, answer.logprobs))
        self._finish(output)
        return self._response

    @override
    def begin(self) -> bytes:
        return self._of_response("created") + self._of_response("in_progress")

    @override
    def delta(
        self, prompt: int, delta: CompletionDelta, so_far: Callable[[], RequestOutput]
    ) -> bytes:
        logprobs = self._logprobs(delta.token_ids, delta.logprobs)
        events = self._add(self._reader.push(delta.text), logprobs)
        if delta.finish_reason is not None:
            events += self._add(self._reader.finish())
        return events

    @override
    def end(self, outputs: Sequence[RequestOutput]) -> bytes:
        events = self._finish(outputs[0])
        return events + self._of_response(self._response.status)

    @override
    def fail(self, reply: ErrorReply) -> bytes:
        self._response.status = "failed"
        self._response.error = Failure("server_error", reply.message)
        return self._of_response("failed")

    # --------------------------------------------------------------------------- items

    def _add(self, parts: Parts, logprobs: list[TokenLogprob] | None = None) -> bytes:
        """Add new parts to the items; return the events that say so."""
        events = b""
        if parts.reasoning:
            events += self._add_reasoning(parts.reasoning)
        if parts.content or (logprobs and isinstance(self._open, MessageItem)):
            events += self._add_text(parts.content, logprobs or [])
        for call in parts.tool_calls:
            events += self._add_call(call)
        return events

    def _add_reasoning(self, text: str) -> bytes:
        events, item = b"", self._open
        if not isinstance(item, ReasoningItem):
            events = self._close()
            item = ReasoningItem(id=f"rs_{self._request_id}", content=[])
            events += self._begin_item(item)
            item.content.append(ReasoningText())
            events += self._of_part("content_part.added", item.id, item.content[0])
        item.content[0].text += text
        return events + self._of_content("reasoning_text.delta", item.id, delta=text)

    def _add_text(self, text: str, logprobs: list[TokenLogprob]) -> bytes:
        events, item = b"", self._open
        if not isinstance(item, MessageItem):
            events = self._close()
            number = len(self._response.output)
            item = MessageItem(id=f"msg_{self._request_id}_{number}", content=[])
            events += self._begin_item(item)
            item.content.append(OutputText())
            events += self._of_part("content_part.added", item.id, item.content[0])
        item.content[0].text += text
        item.content[0].logprobs += logprobs
        return events + self._of_content(
            "output_text.delta", item.id, delta=text, logprobs=logprobs
        )

    def _add_call(self, part: ToolCallPart) -> bytes:
        events, item = b"", self._open
        if not isinstance(item, CallItem) or part.index != self._open_call:
            events = self._close()
            self._open_call = part.index
            call_id = str(part.id)
            item = CallItem(
                id=f"fc_{call_id}", call_id=call_id, name=str(part.function.name)
            )
            events += self._begin_item(item)
        if not part.function.arguments:
            return events
        item.arguments += part.function.arguments
        return events + self._event(
            "function_call_arguments.delta",
            item_id=item.id,
            output_index=self._last,
            delta=part.function.arguments,
        )

    def _begin_item(self, item: Item) -> bytes:
        self._open = item
        self._response.output.append(item)
        return self._event("output_item.added", output_index=self._last, item=item)

    def _close(self, status: Status = "completed") -> bytes:
        """Return the events that end the open item."""
        item, self._open = self._open, None
        if item is None:
            return b""
        item.status = status
        events = b""
        if isinstance(item, CallItem):
            events += self._event(
                "function_call_arguments.done",
                item_id=item.id,
                name=item.name,
                output_index=self._last,
                arguments=item.arguments,
            )
        elif isinstance(item, MessageItem):
            part = item.content[0]
            events += self._of_content(
                "output_text.done", item.id, text=part.text, logprobs=part.logprobs
            )
            events += self._of_part("content_part.done", item.id, part)
        else:
            text = item.content[0].text
            events += self._of_content("reasoning_text.done", item.id, text=text)
            events += self._of_part("content_part.done", item.id, item.content[0])
        return events + self._event(
            "output_item.done", output_index=self._last, item=item
        )

    def _finish(self, output: RequestOutput) -> bytes:
        cut = output.finish_reason == "length"
        response = self._response
        if not response.output:  # an answer without text is a message all the same
            self._add_text("", [])
        events = self._close("incomplete" if cut else "completed")
        response.status = "incomplete" if cut else "completed"
        response.incomplete_details = Incomplete() if cut else None
        prompt, new = len(output.prompt_token_ids), len(output.token_ids)
        response.usage = ResponseUsage(
            input_tokens=prompt,
            output_tokens=new,
            total_tokens=prompt + new,
            input_tokens_details=InputTokensDetails(output.num_cached_tokens),
            output_tokens_details=OutputTokensDetails(),
        )
        return events

    def _logprobs(self, token_ids: Sequence[int], logprobs: Any) -> list[TokenLogprob]:
        if not self._chat.logprobs or not logprobs:
            return []
        top = self._chat.top_logprobs or 0
        content = chat_logprobs(token_ids, logprobs, top=top).content
        for each in content:
            for entry in (each, *each.top_logprobs):
                entry.bytes = entry.bytes or []  # null is not allowed here
        return content

    def _attach(self, logprobs: list[TokenLogprob]) -> None:
        messages = [i for i in self._response.output if isinstance(i, MessageItem)]
        if messages:
            messages[-1].content[0].logprobs = logprobs

    # -------------------------------------------------------------------------- events

    @property
    def _last(self) -> int:
        return len(self._response.output) - 1

    def _of_response(self, kind: str) -> bytes:
        return self._event(kind, response=self._response)

    def _of_part(self, kind: str, item_id: str, part: Struct) -> bytes:
        return self._of_content(kind, item_id, part=part)

    def _of_content(self, kind: str, item_id: str, **fields: Any) -> bytes:
        return self._event(
            kind, item_id=item_id, output_index=self._last, content_index=0, **fields
        )

    def _event(self, kind: str, **fields: Any) -> bytes:
        name = f"response.{kind}"
        number, self._numbers = self._numbers, self._numbers + 1
        data = encode({"type": name, "sequence_number": number, **fields})
        return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
