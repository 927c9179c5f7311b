from levelq.laboratory.percentiles import Percentiles, duration, percentile


def test_each_percentile_is_a_measured_duration() -> None:
    hundred = [float(number) for number in range(1, 101)]
    assert [percentile(hundred, percent) for percent in (0, 50, 90, 99, 99.9, 100)] == [1, 50, 90, 99, 100, 100]
    assert Percentiles.of(reversed(hundred)) == (100, 50, 90, 99, 100, 100)
    assert Percentiles.of([]) == (0, 0, 0, 0, 0, 0)


def test_durations_are_shown_in_at_most_three_digits() -> None:
    shown = {0.0: "0.0 ms", 0.00042: "0.4 ms", 0.00994: "9.9 ms", 0.00996: "10 ms", 0.9994: "999 ms", 0.9996: "1.00 s",
             9.994: "9.99 s", 9.996: "10 s", 83.2: "83 s"}  # fmt: skip
    assert {value: duration(value) for value in shown} == shown
