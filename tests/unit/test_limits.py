"""The ratios that other promises rest on."""

from nasmesh import limits


def test_a_lease_outlives_two_lost_heartbeats() -> None:
    assert limits.LEASE_S >= 3 * limits.HEARTBEAT_S


def test_servers_permit_more_pings_than_clients_send() -> None:
    assert limits.KEEPALIVE_PERMITTED_S < limits.KEEPALIVE_S


def test_a_chunk_and_a_state_fit_a_message_with_room_for_the_rest() -> None:
    assert limits.CHUNK_BYTES <= limits.MESSAGE_BYTES // 2
    assert limits.STATE_BYTES <= limits.MESSAGE_BYTES // 2


def test_a_checkpoint_fits_protobuf() -> None:
    assert limits.NETWORK_BYTES < limits.CHECKPOINT_BYTES < 2**31 - 1


def test_every_limit_is_a_positive_number_with_its_unit_in_the_name() -> None:
    named = {name: value for name, value in vars(limits).items() if name.isupper()}
    assert all(value > 0 for value in named.values())
    assert all(isinstance(value, int | float) for value in named.values())
