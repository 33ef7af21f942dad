"""A batch as the values of the statement that writes it: scheduler.journal.postgres_schema.APPEND."""

from scheduler.journal.answers import answer_crc
from scheduler.journal.base import Batch
from scheduler.journal.postgres_arrays import bigint_array, bytea_array
from scheduler.journal.schema import event_crc, row_crc


def append_values(epoch: int, batch: Batch) -> tuple[object, ...]:
    """Return the values, in the statement's order; each column of rows is an array."""
    answers = list(batch.answers.items())
    kept = [(key.encode(), body, row_crc(key, body)) for key, body in batch.rows.items() if body]
    return (
        epoch,
        batch.first_sequence,
        bytea_array(batch.events),
        bigint_array([event_crc(n, body) for n, body in enumerate(batch.events, batch.first_sequence)]),
        bytea_array([key for key, _, _ in kept]),
        bytea_array([body for _, body, _ in kept]),
        bigint_array([crc for _, _, crc in kept]),
        bytea_array([key.encode() for key, body in batch.rows.items() if not body]),
        batch.snapshot_sequence,
        bytea_array([key.encode() for key, _ in answers]),
        bytea_array([answer.body_digest for _, answer in answers]),
        bytea_array([answer.reply for _, answer in answers]),
        [answer.time_s for _, answer in answers],
        bigint_array([answer_crc(key, answer) for key, answer in answers]),
    )
