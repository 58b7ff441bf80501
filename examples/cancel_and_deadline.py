# SPDX-License-Identifier: Apache-2.0

"""End a request before its end: by hand, and by a deadline."""

from __future__ import annotations

from unillm import Generator, SamplingParams
from unillm.errors import RequestCancelledError, RequestTimeoutError

ENDLESS = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)
"""As many tokens as the context holds, whatever the model says."""


def main() -> None:
    """Cancel one request and let another one run out of time."""
    with Generator("unillm/tiny") as generator:
        handle = generator.submit("Count from 1 to 40:", ENDLESS)
        first = next(iter(handle))
        handle.cancel()
        try:
            handle.result()
        except RequestCancelledError as error:
            text = error.output.text if error.output else ""
            print(f"cancelled; what had come is kept: {text.startswith(first.text)}")

        try:
            generator.generate("Count from 1 to 40:", ENDLESS, timeout_s=0.05)
        except RequestTimeoutError as error:
            reason = error.output.finish_reason if error.output else None
            print(f"too late; finish_reason: {reason}")

        [output] = generator.generate("Add 20 and 22:")
        print(f"the generator goes on: {output.text}")


if __name__ == "__main__":
    main()
