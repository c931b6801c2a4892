"""What stands between a client and a platform: certificates, a gateway with TLS, and an HTTP proxy, all on loopback."""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in memory and as files."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    certificate_file: Path
    key_file: Path


def certify(
    folder: Path,
    name: str,
    issuer: Pair | None = None,
    *,
    address: str = "127.0.0.1",
    begins: int = -10,
    ends: int = 1,
    password: str = "",
) -> Pair:
    """Make a certificate and write it to the folder.

    :param issuer: the authority that signs it; None: it is an authority itself
    :param begins: when it begins to be valid, in days from now
    :param ends: when it expires
    :param password: what its key is encrypted with
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=begins))
        .not_valid_after(now + timedelta(days=ends))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .sign(issuer.key if issuer else key, SHA256())
    )
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password.encode())
    pem = serialization.Encoding.PEM
    pair = Pair(certificate, key, folder / f"{name}.crt", folder / f"{name}.key")
    pair.certificate_file.write_bytes(certificate.public_bytes(pem))
    pair.key_file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, encryption))
    return pair


@contextlib.contextmanager
def _serving(handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if tls is not None:
        # The handshake in the thread of the connection, so that a refused one does not end the server.
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            try:
                super().handle()
            except ssl.SSLError:
                # Read what the client has sent meanwhile: closing earlier would reset the connection, and the client
                # might never read why its certificate was refused.
                socket.socket.shutdown(self.connection, socket.SHUT_WR)
                while socket.socket.recv(self.connection, 1 << 16):
                    pass

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@dataclass
class TLSGateway:
    """A gateway that speaks TLS and passes requests on to a server that does not.

    `clients` are the names in the certificates that clients have shown, one for each request.
    """

    url: str = ""
    clients: list[str] = field(default_factory=list)


@contextlib.contextmanager
def tls_gateway(target: str, pair: Pair, clients: Pair | None = None, version: int = 0) -> Iterator[TLSGateway]:
    """Run a gateway.

    :param clients: the authority of the certificates that clients must show; None: it asks for none
    :param version: the newest version of TLS that it speaks; 0: any
    """
    gateway = TLSGateway()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate_file, pair.key_file)
    if version:
        context.maximum_version = ssl.TLSVersion(version)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.certificate_file)

    class Handler(_Handler):
        def _pass_on(self) -> None:
            shown = self.connection.getpeercert() or {}
            gateway.clients.append(dict(part[0] for part in shown.get("subject", ())).get("commonName", ""))
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            backend = http.client.HTTPConnection(urlsplit(target).netloc, timeout=30)
            headers = {name.lower(): value for name, value in self.headers.items()} | {"host": urlsplit(target).netloc}
            backend.request(self.command, self.path, body, headers)
            answer = backend.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name in ("content-type", "content-encoding"):
                if value := answer.headers.get(name):
                    self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            backend.close()

        do_GET = do_POST = do_PUT = do_DELETE = _pass_on

    with _serving(Handler, context) as port:
        gateway.url = f"https://127.0.0.1:{port}"
        yield gateway


@dataclass
class Proxy:
    """An HTTP proxy that opens tunnels. `tunnels` are the addresses it was asked for."""

    address: str = ""
    tunnels: list[str] = field(default_factory=list)


@contextlib.contextmanager
def connect_proxy(user: str = "", password: str = "") -> Iterator[Proxy]:
    """Run a proxy that answers CONNECT.

    :param user: who may use it; "": everybody
    """
    proxy = Proxy()
    expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    class Handler(_Handler):
        def do_CONNECT(self) -> None:
            self.close_connection = True
            if user and self.headers.get("proxy-authorization") != expected:
                self.send_error(407)
                return
            proxy.tunnels.append(self.path)
            host, _, port = self.path.rpartition(":")
            with socket.create_connection((host, int(port)), timeout=10) as server:
                self.send_response(200)
                self.end_headers()
                self.wfile.flush()
                self._pipe(server)

        def _pipe(self, server: socket.socket) -> None:
            other = {self.connection: server, server: self.connection}
            while ready := select.select(list(other), [], [], 30)[0]:
                for source in ready:
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    other[source].sendall(data)

    with _serving(Handler) as port:
        proxy.address = f"127.0.0.1:{port}"
        yield proxy
