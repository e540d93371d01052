"""Accounts in a real directory: OpenLDAP's slapd [A-WWSF]."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imskit.secrets import Secret
from network_edge.wwsf.identities.ldap import LdapConfig, LdapStore
from network_edge.wwsf.identities.model import Account, StoreUnavailableError, identities

pytestmark = pytest.mark.interop

SLAPD = Path("/usr/sbin/slapd")
SCHEMA = """\
dn: cn=ims,cn=schema,cn=config
objectClass: olcSchemaConfig
cn: ims
olcAttributeTypes: ( 1.3.6.1.4.1.99999.1 NAME 'imsPrivateIdentity' EQUALITY caseIgnoreMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
olcAttributeTypes: ( 1.3.6.1.4.1.99999.2 NAME 'imsPublicIdentity' EQUALITY caseIgnoreMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
olcObjectClasses: ( 1.3.6.1.4.1.99999.3 NAME 'imsUser' AUXILIARY MAY ( imsPrivateIdentity $ imsPublicIdentity ) )
"""
PEOPLE = """\
dn: dc=ims,dc=example
objectClass: dcObject
objectClass: organization
dc: ims
o: ims

dn: ou=people,dc=ims,dc=example
objectClass: organizationalUnit
ou: people

dn: uid=alice,ou=people,dc=ims,dc=example
objectClass: inetOrgPerson
objectClass: imsUser
uid: alice
cn: Alice
sn: A
displayName: Alice A.
userPassword: right
imsPrivateIdentity: alice@ims.example
imsPublicIdentity: tel:+15550300
imsPublicIdentity: sip:+15550300@ims.example

dn: uid=guest,ou=people,dc=ims,dc=example
objectClass: inetOrgPerson
uid: guest
cn: Guest
sn: G
userPassword: right

dn: uid=broken,ou=people,dc=ims,dc=example
objectClass: inetOrgPerson
objectClass: imsUser
uid: broken
cn: Broken
sn: B
userPassword: right
imsPrivateIdentity: nonsense

dn: uid=twin,ou=people,dc=ims,dc=example
objectClass: inetOrgPerson
uid: twin
cn: T
sn: T
userPassword: right

dn: cn=twin,ou=people,dc=ims,dc=example
objectClass: inetOrgPerson
uid: twin
cn: twin
sn: T
userPassword: right
"""


class Directory:
    """slapd with a certificate, ldaps and ldap (StartTLS), below ``place``."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.ca = place / "cert.pem"
        self.process: subprocess.Popen[bytes] | None = None
        self.ports = [_free_port(), _free_port()]
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
                *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
                *("-keyout", place / "key.pem", "-out", self.ca),
            ],
            check=True,
            capture_output=True,
        )
        (place / "data").mkdir()
        (place / "config").mkdir()
        schema = "".join(
            f"include: file:///etc/ldap/schema/{name}.ldif\n" for name in ("core", "cosine", "inetorgperson")
        )
        self._add(
            0,
            "dn: cn=config\nobjectClass: olcGlobal\ncn: config\n"
            f"olcTLSCertificateFile: {self.ca}\nolcTLSCertificateKeyFile: {place}/key.pem\n\n"
            "dn: cn=module,cn=config\nobjectClass: olcModuleList\ncn: module\nolcModulePath: /usr/lib/ldap\n"
            "olcModuleLoad: back_mdb\n\n"
            "dn: cn=schema,cn=config\nobjectClass: olcSchemaConfig\ncn: schema\n\n"
            f"{schema}\n{SCHEMA}\n"
            "dn: olcDatabase=mdb,cn=config\nobjectClass: olcDatabaseConfig\nobjectClass: olcMdbConfig\n"
            f"olcDatabase: mdb\nolcDbDirectory: {place}/data\nolcSuffix: dc=ims,dc=example\n"
            "olcRootDN: cn=admin,dc=ims,dc=example\nolcRootPW: geheim\n"
            "olcAccess: to attrs=userPassword by anonymous auth by * none\n"
            "olcAccess: to * by dn=cn=admin,dc=ims,dc=example read by * none\n",
        )
        self._add(1, PEOPLE)
        self.start()

    def _add(self, number: int, text: str) -> None:
        subprocess.run(
            ["/usr/sbin/slapadd", "-F", self.place / "config", "-n", str(number)],
            input=text.encode(),
            check=True,
            capture_output=True,
        )

    def start(self) -> None:
        uris = f"ldaps://127.0.0.1:{self.ports[0]} ldap://127.0.0.1:{self.ports[1]}"
        self.process = subprocess.Popen(
            [SLAPD, "-F", self.place / "config", "-h", uris, "-d", "0"], stderr=subprocess.DEVNULL
        )
        _wait_for(self.ports[1])

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    def config(self, *, tls: bool = True, **change: object) -> LdapConfig:
        fields: dict[str, object] = {
            "uri": f"ldaps://localhost:{self.ports[0]}" if tls else f"ldap://localhost:{self.ports[1]}",
            "base": "ou=people,dc=ims,dc=example",
            "bind_dn": "cn=admin,dc=ims,dc=example",
            "bind_password": Secret("geheim"),
            "ca": self.ca,
        }
        return LdapConfig(**(fields | change))  # type: ignore[arg-type]


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    import socket

    deadline = time.monotonic() + 15
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "slapd does not listen"
            time.sleep(0.05)  # nothing of slapd's says that it listens


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directory]:
    if not SLAPD.exists():
        pytest.skip("slapd is not installed (Debian package slapd)")
    directory = Directory(tmp_path_factory.mktemp("ldap"))
    yield directory
    directory.stop()


ALICE = Account("alice", identities("alice@ims.example", ["sip:+15550300@ims.example", "tel:+15550300"], "Alice A."))


@pytest.mark.parametrize("tls", [True, False], ids=["ldaps", "starttls"])
async def test_log_in(directory: Directory, tls: bool) -> None:
    """A-WWSF: the right password gives the identities; nothing else does, an empty password least of all."""
    store = LdapStore(directory.config(tls=tls))
    await store.check()
    assert await store.log_in("Alice", Secret("right")) == ALICE
    for name, password in (("alice", "wrong"), ("alice", ""), ("bob", "right"), ("twin", "right"), ("guest", "wrong")):
        assert await store.log_in(name, Secret(password)) is None


@pytest.mark.parametrize("name", ["*", "alice)(uid=*", "a*", "alice)(|(uid=alice", "\\61lice", "", "alice\x00"])
async def test_names_are_no_filters(directory: Directory, name: str) -> None:
    assert await LdapStore(directory.config()).log_in(name, Secret("right")) is None


async def test_a_user_without_identities_draws_from_the_range(directory: Directory) -> None:
    """A-REG3."""
    account = await LdapStore(directory.config(range="guests")).log_in("guest", Secret("right"))
    assert account == Account("guest", None, range="guests")
    with pytest.raises(StoreUnavailableError, match="no usable IMS identities"):
        await LdapStore(directory.config()).log_in("guest", Secret("right"))
    with pytest.raises(StoreUnavailableError, match="no usable IMS identities"):
        await LdapStore(directory.config(range="guests")).log_in("broken", Secret("right"))


async def test_faults(directory: Directory) -> None:
    """A wrong service password, an authority that is not known, a directory that is gone: 503, no password in it."""
    for change in (
        {"bind_password": Secret("wrong")},
        {"ca": None},
        {"uri": f"ldaps://127.0.0.1:{directory.ports[0]}"},
    ):
        with pytest.raises(StoreUnavailableError) as caught:
            await LdapStore(directory.config(**change)).log_in("alice", Secret("right"))
        assert "right" not in str(caught.value)
    store = LdapStore(directory.config())
    directory.stop()
    try:
        with pytest.raises(StoreUnavailableError, match="cannot be used"):
            await store.log_in("alice", Secret("right"))
    finally:
        directory.start()
    assert await store.log_in("alice", Secret("right")) == ALICE


def test_the_servers_own_tools_agree(directory: Directory) -> None:
    """What the store reads is what ldapsearch reads."""
    if shutil.which("ldapsearch") is None:
        pytest.skip("ldapsearch is not installed (Debian package ldap-utils)")
    answer = subprocess.run(
        [
            *("ldapsearch", "-LLL", "-x", "-H", f"ldap://127.0.0.1:{directory.ports[1]}"),
            *("-D", "cn=admin,dc=ims,dc=example", "-w", "geheim"),
            *("-b", "ou=people,dc=ims,dc=example", "(uid=alice)", "imsPublicIdentity"),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert ALICE.identities is not None
    for impu in ALICE.identities.impus:
        assert f"imsPublicIdentity: {str.__str__(impu)}" in answer
