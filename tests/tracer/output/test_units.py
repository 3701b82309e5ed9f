"""Times, durations, sizes and ids on a line."""

from __future__ import annotations

import pytest

from tracer.output.units import Clock, Stamps, duration, quantity, short_id, size


@pytest.mark.parametrize(
    ("length_ns", "shown"),
    [
        (0, "0µs"),
        (999, "0µs"),
        (87_654, "87µs"),
        (999_999, "999µs"),
        (1_234_567, "1.234ms"),
        (999_999_999, "999.999ms"),
        (1_000_000_000, "1.000s"),
        (59_999_999_999, "59.999s"),
        (60_000_000_000, "1m00s"),
        (187_000_000_000, "3m07s"),
        (7_500_000_000_000, "2h05m"),
        (356_400_000_000_000, "4d03h"),
    ],
)
def test_a_duration_is_short_and_never_rounded_up(length_ns: int, shown: str) -> None:
    assert duration(length_ns) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (2_500_000_000, "2.5 GB"),
    ],
)
def test_a_size_is_in_powers_of_a_thousand(count: int, shown: str) -> None:
    assert size(count) == shown


def test_an_id_of_64_digits_is_shown_as_crictl_shows_it() -> None:
    assert short_id("9f57c2b6405e106209b0c9f2e32d782d71f1a18ba8a758828bf8badf8831cb3e") == "9f57c2b6405e1"


def test_a_name_that_does_not_fit_is_cut_with_a_mark() -> None:
    assert short_id("redis") == "redis"
    assert short_id("my-long-container-name") == "my-long-cont…"


def test_wall_time_goes_on_within_a_second_and_over_it() -> None:
    clock = Clock(utc=True)
    start = 1_795_445_881_102_696_234
    assert [clock.text(start), clock.text(start + 1000), clock.text(start + 900_000_000), clock.text(start)] == [
        "14:58:01.102696",
        "14:58:01.102697",
        "14:58:02.002696",
        "14:58:01.102696",
    ]


def test_stamps_are_utc_with_nanoseconds() -> None:
    assert Stamps().text(1_795_445_881_102_696_234) == "2026-11-23T14:58:01.102696234Z"


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1146880, "1.1 MiB"),
        (67108864, "64 MiB"),
        ((1 << 30) - 1, "1 GiB"),
        (1 << 50, "1024 TiB"),
        (-2048, "-2 KiB"),
    ],
)
def test_memory_is_in_powers_of_1024(count: int, shown: str) -> None:
    assert quantity(count) == shown
