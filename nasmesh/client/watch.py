"""Follows a search across lost streams and restarted schedulers: every recorded change once, in order."""

from collections.abc import Callable, Iterator

from nasmesh.client.patience import Patience
from nasmesh.errors import Busy, Unavailable
from nasmesh.v1 import scheduler_service_pb2 as pb
from nasmesh.v1 import search_pb2

Open = Callable[[int], Iterator[pb.WatchSearchResponse]]
ENDED = frozenset(
    {search_pb2.SEARCH_STATE_SUCCEEDED, search_pb2.SEARCH_STATE_FAILED, search_pb2.SEARCH_STATE_CANCELLED}
)


def follow(
    open_stream: Open, after_sequence: int, patience: Patience, has_ended: Callable[[int], bool] = lambda _: False
) -> Iterator[pb.WatchSearchResponse]:
    """Yield the changes after a sequence number until the search has ended.

    `has_ended(sequence)` says whether it had by then, for a stream that closes without a word: there was none to say.
    `open_stream(after)` opens the server stream. One sequence number may carry several changes and the stream may break
    between them, so a new stream starts one number earlier and what was already seen of that number is skipped.
    """
    sequence, seen, ended = after_sequence, 0, False
    while not ended:
        start = max(after_sequence, sequence - 1) if seen else sequence
        skip = {sequence: seen} if start < sequence else {}
        try:
            for change in open_stream(start):
                patience.succeeded()
                if change.WhichOneof("change") == "progress":
                    yield change
                    continue
                if skip.get(change.sequence, 0) > 0:
                    skip[change.sequence] -= 1
                    continue
                if change.sequence < sequence:
                    continue
                seen = seen + 1 if change.sequence == sequence else 1
                sequence = change.sequence
                ended = ended or change.search.state in ENDED
                yield change
            ended = ended or has_ended(sequence)
            if not ended:  # a draining scheduler closes its streams
                patience.failed(Unavailable("WATCH_CLOSED", "the scheduler closed the stream before the search ended"))
        except (Unavailable, Busy) as error:
            patience.failed(error)
