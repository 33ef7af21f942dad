import threading

import pytest

from nasmesh.v1 import object_pb2
from train_svc.writer import Writer

REF = object_pb2.ObjectRef(key="checkpoint")


def test_writer_when_the_store_is_slow_then_nobody_waits_and_it_is_collected_once():
    writer, free = Writer(), threading.Event()
    assert writer.collect() is None
    writer.start(lambda: REF if free.wait(10) else None)
    assert writer.busy
    assert writer.collect() is None
    with pytest.raises(ValueError, match="being written"):
        writer.start(lambda: REF)
    free.set()
    assert writer.collect(wait=True) == REF
    assert not writer.busy
    assert writer.collect(wait=True) is None


def test_writer_when_it_has_written_but_was_not_collected_then_takes_no_other():
    writer, written = Writer(), threading.Event()
    writer.start(written.set)
    assert written.wait(10)
    assert writer.busy, "whether its thread has ended by now must not matter"
    writer.collect(wait=True)
    assert not writer.busy


def test_writer_when_closed_then_nothing_is_written_afterwards_and_no_error_is_raised():
    writer, written = Writer(), []

    def write():
        threading.Event().wait(0.05)
        written.append(REF)
        raise OSError("no space left on device")

    writer.start(write)
    writer.close()
    assert (written, writer.busy) == ([REF], False)
    writer.close()


def test_writer_when_writing_fails_then_the_training_gets_it():
    writer = Writer()

    def fail():
        raise OSError("no space left on device")

    writer.start(fail)
    with pytest.raises(OSError, match="no space"):
        writer.collect(wait=True)
    assert not writer.busy
