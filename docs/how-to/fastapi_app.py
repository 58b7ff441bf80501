# SPDX-License-Identifier: Apache-2.0

"""A web API of your own over one generator: ``uvicorn fastapi_app:app``."""

# Part: generator.
import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from unillm import Generator, RequestHandle, RequestOutput, SamplingParams
from unillm.errors import EngineError, QueueFullError, RequestError, RequestTimeoutError


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the model before the first request, and free it after the last."""
    with await Generator.acreate("unillm/tiny") as generator:
        app.state.generator = generator
        yield


app = FastAPI(lifespan=lifespan)


class Question(BaseModel):
    """The body of a request."""

    text: str
    max_tokens: int = Field(default=200, ge=1)


# Part: errors.
@app.exception_handler(RequestError)
@app.exception_handler(EngineError)
async def refused(_: Request, error: Exception) -> JSONResponse:
    """Answer with the message and the status that belongs to the error."""
    if isinstance(error, QueueFullError):
        status = 429  # try again
    elif isinstance(error, RequestTimeoutError):
        status = 504
    elif isinstance(error, ValueError):
        status = 400  # the prompt or a parameter
    else:
        status = 503
    return JSONResponse({"error": str(error)}, status)


# Part: answer.
@app.post("/answer")
async def answer(question: Question, request: Request) -> dict[str, str | None]:
    """Answer a question as a whole."""
    generator: Generator = request.app.state.generator
    handle = generator.submit(
        {"messages": [{"role": "user", "content": question.text}]},
        SamplingParams.from_model(generator, max_tokens=question.max_tokens),
        timeout_s=60,
    )
    output = await output_of(handle, request)
    return {"text": output.text, "finish_reason": output.finish_reason}


async def output_of(handle: RequestHandle, request: Request) -> RequestOutput:
    """Wait for an output; the request of a client that leaves is cancelled."""
    waiting = asyncio.ensure_future(handle)
    while not waiting.done():
        await asyncio.wait([waiting], timeout=0.5)
        if await request.is_disconnected():
            handle.cancel()
    return await waiting


# Part: stream.
@app.post("/stream")
async def stream(question: Question, request: Request) -> StreamingResponse:
    """Answer a question with text as it comes."""
    generator: Generator = request.app.state.generator
    deltas = generator.achat_stream(  # refuses here, before the response begins
        [{"role": "user", "content": question.text}],
        SamplingParams.from_model(generator, max_tokens=question.max_tokens),
        timeout_s=60,
    )

    async def texts() -> AsyncIterator[str]:
        async with aclosing(deltas):
            async for delta in deltas:
                yield delta.text

    return StreamingResponse(texts(), media_type="text/plain; charset=utf-8")


# Part: structure.
class Sum(BaseModel):
    """The form of an answer."""

    sum: int = Field(ge=0, le=999)


@app.post("/sum")
async def add(question: Question, request: Request) -> Sum:
    """Answer with JSON of a class, whatever the model would rather say."""
    generator: Generator = request.app.state.generator
    handle = generator.submit(
        question.text,
        SamplingParams(
            structured_outputs={"json": Sum, "disable_any_whitespace": True},
            max_tokens=question.max_tokens,
            temperature=0,
        ),
    )
    output = await output_of(handle, request)
    return Sum.model_validate_json(output.text)
