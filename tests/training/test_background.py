"""The writing thread: order, errors, closing."""

import threading
import time

from dynascope.training.background import Background


def test_tasks_run_in_order_in_another_thread():
    seen, worker = [], Background("test")
    for number in range(20):
        worker.submit(lambda number=number: seen.append((number, threading.get_ident())))
    worker.close()
    assert [number for number, _ in seen] == list(range(20))
    assert {thread for _, thread in seen} != {threading.get_ident()}


def test_the_first_error_stops_the_rest_and_is_kept():
    seen, worker = [], Background("test")
    worker.submit(lambda: seen.append(1))
    worker.submit(lambda: 1 / 0)
    worker.submit(lambda: seen.append(2))
    worker.close()
    assert seen == [1]
    assert isinstance(worker.error, ZeroDivisionError)
    worker.submit(lambda: seen.append(3))
    worker.close()
    assert seen == [1]


def test_processor_time_is_counted_but_not_waiting():
    worker = Background("test")
    worker.submit(lambda: time.sleep(0.05))
    worker.submit(lambda: sum(range(300_000)))
    worker.close()
    # the sum takes milliseconds; the sleep, had it counted, fifty more
    assert 0 < worker.seconds < 0.045
