"""Every number that bounds something, each with its reason. A limit that is written elsewhere is a mistake."""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# --- wire -------------------------------------------------------------------------------------------------------
# Control goes by gRPC, data by the object store, so no message needs more; one over it is refused before decoding.
MESSAGE_BYTES: Final = 4 * MIB
# One piece of a streamed object (ExportNetwork, ImportNetwork); well below MESSAGE_BYTES, large enough to be quick.
CHUNK_BYTES: Final = 1 * MIB
# What an error may carry: gRPC drops trailers over 8 KiB, and the text travels twice, once percent-encoded (x 3).
ERROR_TEXT_BYTES: Final = 1 * KIB
ERROR_DETAIL_BYTES: Final = 3 * KIB
# A ping after 20 s of silence, given up after 10 s: below the 60 s after which many home routers forget a connection.
KEEPALIVE_S: Final = 20
KEEPALIVE_TIMEOUT_S: Final = 10
# The server's allowance must be below the client's period, else it answers pings with GOAWAY (too_many_pings).
KEEPALIVE_PERMITTED_S: Final = 10
# grpc core refuses bursts of new streams beyond its default of 1000 pending ones; thousands of agents may reconnect.
PENDING_CALLS: Final = 100_000
# Calls at once on the asyncio server: 5,000 agents with a stream each, and clients; surplus is refused at once.
CONCURRENT_CALLS: Final = 20_000
# Leases of one kind that wait at an agent for a slot; more would only be taken from agents that come free before it.
LEASES_AHEAD: Final = 4
# How long one waits there before it is given back: it was sent ahead because the others took a fraction of this.
LEASE_AHEAD_S: Final = 0.5
# Threads of a generate, train or evaluate server; every open Watch stream holds one.
SERVER_THREADS: Final = 32
# How long calls in hand may take to end when a server stops.
STOP_GRACE_S: Final = 5.0

# Metadata of a call: a token and a trace context need a few hundred bytes; more is refused before it is kept.
METADATA_BYTES: Final = 8 * KIB
# Connections at once: 5,000 agents, clients, and room; each costs tens of kilobytes before it has said who it is.
CONNECTIONS: Final = 10_000
# A connection that has not finished its handshake by then was never meant to (gRPC: 120 s); thousands may come at once.
HANDSHAKE_S: Final = 20
# A connection lives so long at most, so that renewed certificates and balancers take effect; agents then reconnect.
CONNECTION_AGE_S: Final = 3600
# Calls in hand may take so long to end after that, then they are cut.
CONNECTION_AGE_GRACE_S: Final = 600
# A connection without a call in hand is closed after this.
CONNECTION_IDLE_S: Final = 900
# Streams of one connection; a client has one or two, a gateway some hundreds.
STREAMS_A_CONNECTION: Final = 1_000

# --- access -----------------------------------------------------------------------------------------------------
# Calls of one client: a person with scripts; the burst is a page of detail lookups.
CLIENT_CALLS_PER_S: Final = 10.0
CLIENT_BURST: Final = 40.0
# Unary calls of one agent's credential: it may drive a server of 64 slots by address. Work streams are not counted.
AGENT_CALLS_PER_S: Final = 500.0
AGENT_BURST: Final = 2_000.0
# Searches that one client watches at once.
WATCHES: Final = 5
# Failed sign-ins of one address; beyond it the answer comes before anything is looked up.
REFUSALS_PER_S: Final = 10.0
REFUSALS_BURST: Final = 100.0
# Callers whose rates are remembered; the one that called longest ago is forgotten first.
RATED_CALLERS: Final = 10_000
# How often open streams are asked whether their credential is still good.
CREDENTIAL_LOOK_S: Final = 1.0
# No certificate, key or list of tokens needs more.
CREDENTIAL_FILE_BYTES: Final = 4 * MIB
TOKENS: Final = 10_000
TOKEN_DAYS: Final = 30.0
TOKEN_DAYS_MAX: Final = 90.0
CERTIFICATE_DAYS: Final = 7.0
CERTIFICATE_DAYS_MAX: Final = 90.0
AUTHORITY_DAYS: Final = 5 * 365.0
# The last quarter of a certificate's life, at most this: from when on the log tells every hour that it ends.
CERTIFICATE_WARNED: Final = 0.25
CERTIFICATE_WARNED_S: Final = 30 * 86_400.0
CERTIFICATE_LOOK_S: Final = 3600.0

# --- leases and retries ----------------------------------------------------------------------
# A lease survives two lost heartbeats and clocks that run at half or double rate.
LEASE_S: Final = 30.0
HEARTBEAT_S: Final = 10.0
LEASE_RATIO: Final = 3
# So long after it was last connected an agent still counts as one that may take work; a host needs minutes to boot.
AGENT_KNOWN_S: Final = 300.0
# Attempts at one task before it is quarantined; losses by restart, store outage or drain do not count.
ATTEMPTS: Final = 3
# Full jitter: a delay is uniform in [0, min(cap, base * factor ** n)].
BACKOFF_BASE_S: Final = 1.0
BACKOFF_FACTOR: Final = 2.0
BACKOFF_CAP_S: Final = 60.0
# Finished results are kept by a server until deleted, or this long.
SPOOL_KEEP_S: Final = 24 * 3600.0
# Answers to request ids are kept this long.
REQUEST_KEEP_S: Final = 7 * 24 * 3600.0
# A job that nobody watches or asks about for this long has lost its agent for good: leases run out in seconds.
ORPHAN_S: Final = 600.0
# An orphan is in nobody's way: it has time for a checkpoint of any size.
ORPHAN_GRACE_S: Final = 60.0
# A training that is wanted again later (its search is paused, its agent drained) has this long to store a checkpoint.
RELEASE_GRACE_S: Final = 60.0
# Likewise where the agent itself is told to end: whoever stops it waits 30 s by habit, and outcomes follow.
DRAIN_GRACE_S: Final = 10.0
# Work that waits longer than this for a commit means a stuck disk: health says NOT_SERVING.
COMMIT_STUCK_S: Final = 10.0
# A cancelled job has this long to end by itself before its child process is killed.
CANCEL_GRACE_S: Final = 2.0

# --- objects ------------------------------------------------------------------------------------------------------
# A network as it is admitted. Weightless ones are kilobytes; this is for imported ones with weights.
NETWORK_BYTES: Final = 64 * MIB
# protobuf cannot serialise more than 2 GiB; the margin is for the graph and the optimiser's scalars.
CHECKPOINT_BYTES: Final = 1_900_000_000
# A generator's opaque state travels in messages and in the journal with every call.
STATE_BYTES: Final = 1 * MIB
# A shard or a manifest of an added data set; it is held whole by whoever checks its digest.
DATASET_OBJECT_BYTES: Final = 64 * MIB
# An added data set as it is listed, names of classes and statistics of columns with it; below MESSAGE_BYTES.
DATASET_LISTED_BYTES: Final = 3 * MIB
# Shards are made about so large: small beside a host's memory, large beside a round trip.
DATASET_SHARD_BYTES: Final = 16 * MIB
# One sample must fit a shard several times over.
DATASET_SAMPLE_BYTES: Final = 16 * MIB
# Data sets up to this are held in memory, whole; larger ones are read from the local cache as they are wanted.
DATASET_MEMORY_BYTES: Final = 512 * MIB
# Copies of added data sets on a host's disk; beyond it the longest unopened are deleted.
DATASET_CACHE_BYTES: Final = 256 * 1024 * MIB
# What one data set may have in all; labels and groups of its samples are held in memory in any case.
DATASET_SAMPLES: Final = 1_000_000_000
# Added data sets of one client; manifests stay in the journal's state.
DATASETS: Final = 1_000
# An object that nothing names may be about to be named: by an agent's outcome that waits in a spool (24 h), say.
SWEEP_AGE_S: Final = 48 * 3600.0
SWEEP_AGE_MIN_S: Final = 3600.0
# What a training made waits so long for an object store that is down, then the attempt fails and is made again.
UPLOAD_S: Final = 1800.0
# What a job kept on disk because it could not be stored is dropped after this, if nobody has come back for it.
OUTBOX_KEEP_S: Final = 48 * 3600.0
# A temporary file in an object directory that nobody has written to for this long was left by a crash.
LEFTOVER_S: Final = 3600.0

# --- S3 -------------------------------------------------------------------------------------------------------------
# An endpoint that is there answers at once; one that is not must not hold a job.
STORE_CONNECT_S: Final = 2.0
STORE_READ_S: Final = 10.0
STORE_TRIES: Final = 3
# Requests made again are at most so many of those that succeeded, after the first few: a store that is down is not
# brought lower.
STORE_RETRY_SHARE: Final = 0.1
STORE_RETRY_BURST: Final = 20.0
# An object that comes slower than this is given up, however steadily its bytes drip.
STORE_SLOWEST_BYTES_PER_S: Final = 256 * KIB
# Larger ones are sent in parts, several at once, each of which is sent again alone.
STORE_PART_BYTES: Final = 16 * MIB
STORE_PARTS_AT_ONCE: Final = 3
# An object put again within this is not written again; a sweep counts it as so much younger than the store says.
STORE_YOUNG_S: Final = 600.0
# Between a sweep's last look at an object and its deletion; who puts it again meanwhile waits twice as long for it.
STORE_SWEEP_WINDOW_S: Final = 5.0
# Copies of objects on a host's disk; beyond it the longest unread are deleted.
STORE_CACHE_BYTES: Final = 10 * 1024 * MIB
# No answer of a store but an object is larger: a page of a listing has a thousand keys.
STORE_ANSWER_BYTES: Final = 4 * MIB
STORE_LINK_S: Final = 3600
STORE_LINK_S_MAX: Final = 7 * 24 * 3600

# --- admission of networks ------------------------------------------------------------------
ADMISSION_TIME_S: Final = 2
ADMISSION_MEMORY_BYTES: Final = 512 * MIB
ADMISSION_NODES: Final = 20_000
ADMISSION_INITIALIZERS: Final = 5_000
ADMISSION_ATTRIBUTES: Final = 32
# Inputs of Concat and Sum, outputs of Split.
ADMISSION_ENDS: Final = 1024
# Entries of one list of key-value texts; each is bounded by ADMISSION_METADATA_BYTES together with its neighbours.
ADMISSION_ENTRIES: Final = 64
# Longest shape, axes or split vector that is read.
ADMISSION_INTEGERS: Final = 4096
# Messages, numbers and texts of a file over SCANNED_BYTES; a node of a real network has about thirty.
ADMISSION_PARTS: Final = 200_000
# Smaller files cannot take much memory whatever they hold: at most a hundred times their size.
ADMISSION_SCANNED_BYTES: Final = 256 * KIB
# A block id, a candidate id and a role together reach 146 characters.
ADMISSION_NAME_CHARS: Final = 192
ADMISSION_METADATA_BYTES: Final = 4 * KIB
ADMISSION_ARCHITECTURE_BYTES: Final = 1 * MIB
ADMISSION_RANK: Final = 6
ADMISSION_DIM: Final = 65_536
# NORD's two-convolution space has kernels up to 50.
ADMISSION_KERNEL: Final = 50
ADMISSION_STRIDE: Final = 8
ADMISSION_PAD: Final = 31
ADMISSION_DILATION: Final = 16
ADMISSION_OPSET_MIN: Final = 13
# Operators keep their meaning for our allow-list up to there.
ADMISSION_OPSET_MAX: Final = 26
ADMISSION_PARAMETERS: Final = 1_000_000_000
ADMISSION_ACTIVATION_BYTES: Final = 2 * 1024 * MIB
ADMISSION_MACS: Final = 10_000_000_000_000

# --- lists, queues, logs ----------------------------------------------------------------------------------------
PAGE_SIZE: Final = 100
PAGE_SIZE_MAX: Final = 1000
# Networks of one owner that wait or are in work: bounds the queues and what a restart has to arm.
QUEUED_NETWORKS: Final = 10_000
# Open searches of one client; a team that needs more runs them one after another, or asks the operator.
OPEN_SEARCHES: Final = 20
# A line must fit one write to a pipe (PIPE_BUF), so that lines of several processes never mix.
LOG_LINE_BYTES: Final = 4 * KIB

if LEASE_S < LEASE_RATIO * HEARTBEAT_S:  # not an assert: must hold under python -O too
    raise RuntimeError(f"LEASE_S must be at least {LEASE_RATIO} times HEARTBEAT_S")
if KEEPALIVE_PERMITTED_S >= KEEPALIVE_S:
    raise RuntimeError("servers must permit pings more often than clients send them")
if ERROR_TEXT_BYTES * 3 + ERROR_DETAIL_BYTES * 4 // 3 > 8 * KIB:
    raise RuntimeError("an error must fit gRPC's 8 KiB of trailers")
