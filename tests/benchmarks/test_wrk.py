"""Reading what wrk prints."""

import pytest

from benchmarks.generator import Measured
from benchmarks.wrk import parse

GOOD = """\
Running 2s test @ http://127.0.0.1:8000/1024
  1 threads and 50 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    98.01ms   50.00ms   1.20s    91.00%
    Req/Sec   500.00    100.00     1.00k    70.00%
  Latency Distribution
     50%  500.00us
     75%    2.00ms
     90%   10.00ms
     99%    1.20s 
  1000 requests in 2.00s, 1.00MB read
Requests/sec:    500.00
Transfer/sec:    512.00KB
"""  # noqa: W291 -- so does wrk


def test_all_good() -> None:
    """Rate and percentiles are read, the latter in milliseconds."""
    assert parse(GOOD) == Measured(500, 0, 0.5, 1200)


def test_errors() -> None:
    """Bad answers are no part of the rate; they and broken connections are errors."""
    errors = "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 100\n"

    measured = parse(GOOD.replace("Requests/sec", f"{errors}Requests/sec"))

    assert (measured.rate, measured.errors) == (450, 110)


def test_nothing_came() -> None:
    """Without an answer there are no percentiles, though wrk prints some."""
    output = GOOD.replace("500.00us", "0.00us").replace("1.20s", "0.00us").replace("1000 requests", "0 requests")

    assert parse(output) == Measured(0, 0, None, None)


def test_something_else() -> None:
    """What wrk does not print is refused."""
    with pytest.raises(ValueError, match="no output of wrk"):
        parse("unable to connect to 127.0.0.1:1\n")
