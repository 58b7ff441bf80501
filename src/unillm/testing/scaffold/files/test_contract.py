"""The contract of backends, and random requests."""

from unillm.testing.contract import BackendContract
from unillm.testing.randomised import run_random


class TestNewengine(BackendContract):
    backend = "newengine"


def test_random_requests_have_no_fault():
    report = run_random("newengine", requests=100, seed=1)

    assert report.conforms, f"{report.fault}\n{report.program}"
