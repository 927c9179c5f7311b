from levelq.laboratory.sampler import LedgerTail


def test_ledger_tail_misses_no_row_that_becomes_visible_late() -> None:
    """Transaction 11 draws ids 1 and 2, 10 draws 3; 10 commits first, and a look between the two must not pass by."""
    tail = LedgerTail()
    tail.begin(10, 12)
    assert tail.take([]) == []
    tail.begin(11, 12)  # 10 has ended, 11 is still running
    assert tail.take([(10, 3)]) == [(10, 3)]
    tail.begin(11, 13)  # and 12 has begun meanwhile
    assert tail.take([(10, 3)]) == [] and tail.floor == 0
    tail.begin(12, 13)
    assert tail.take([(11, 2), (10, 3)]) == [(11, 2)]
    tail.begin(13, 13)
    assert tail.take([(12, 4)]) == [(12, 4)]
    assert tail.floor == 3
    tail.begin(13, 13)
    tail.take([])
    assert tail.floor == 4
