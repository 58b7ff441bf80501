# SPDX-License-Identifier: Apache-2.0

"""``scripted_server`` with an SDK of OpenTelemetry that appends spans to a file.

Usage: ``SPANS=FILE python tests/traced_server.py [options of unillm serve]``.
"""

from __future__ import annotations

import os
import runpy
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

if __name__ == "__main__":
    out = Path(os.environ["SPANS"]).open("a", encoding="utf-8")  # noqa: SIM115 - until the end
    exporter = ConsoleSpanExporter(
        out=out, formatter=lambda span: span.to_json(indent=None) + "\n"
    )
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    runpy.run_path(
        str(Path(__file__).with_name("scripted_server.py")), run_name="__main__"
    )
