import pytest

from hubbub import ConfigurationError
from hubbub.brokers.redis.address import Place, address_of


def test_a_url_says_where_a_server_is():
    address = address_of("redis://ada:se%40cret@host:1234/3?prefix=chat")
    assert (address.kind, address.places, address.database) == ("server", (Place("host", 1234),), 3)
    assert (address.username, address.password, address.prefix) == ("ada", "se@cret", "chat")
    assert address.tls is None
    assert "cret" not in f"{address} {address!r}"


def test_what_a_url_leaves_out_is_as_usual():
    address = address_of("redis://[::1]")
    assert (address.places, address.database) == ((Place("::1", 6379),), 0)
    assert (address.username, address.password, address.prefix) == (None, None, "hubbub")


def test_sentinels_are_listed_with_the_name_of_the_master():
    address = address_of("redis+sentinel://:secret@a,b:26380/rooms/2?sentinel_password=other")
    assert address.places == (Place("a", 26379), Place("b", 26380))
    assert (address.kind, address.name, address.database) == ("sentinel", "rooms", 2)
    assert (address.password, address.sentinel_password) == ("secret", "other")


def test_a_cluster_has_one_node_or_several():
    assert address_of("redis+cluster://a:7000,b/").places == (Place("a", 7000), Place("b", 6379))


def test_tls_checks_the_certificate_unless_told(tmp_path):
    assert address_of("rediss://host").tls == {"ssl_check_hostname": True}
    assert address_of("rediss://host?ssl_check_hostname=false").tls == {"ssl_check_hostname": False}
    with pytest.raises(ConfigurationError, match="can't be used"):
        address_of(f"rediss://host?ssl_ca_certs={tmp_path}/missing.pem")


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://:secret@",
        "redis://:secret@host:port/0",
        "redis://:secret@host/x",
        "redis://:secret@host/0/1",
        "redis://:secret@a,b/0",
        "redis://:secret@host/0#part",
        "redis://:secret@host/0?unknown=1",
        "redis://:secret@host/0?ssl_ca_certs=x",
        "redis://:secret@host/0?prefix=",
        "redis://:secret@host/0?prefix=a{b",
        "redis+sentinel://:secret@host",
        "redis+cluster://:secret@host/1",
        "rediss://:secret@host?ssl_check_hostname=perhaps",
    ],
)
def test_a_url_that_can_not_be_meant_is_refused_without_its_password(url):
    with pytest.raises(ConfigurationError) as raised:
        address_of(url)
    assert "secret" not in str(raised.value)
