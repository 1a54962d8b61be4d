"""A client and an origin in one thread, a request at a time: each waits for the other, and until the proxy between them
has run out of work, before it says more. So the proxy does the same for every request, whatever else the machine does.
"""

import pathlib
import platform
import selectors
import socket
import ssl
import struct
import time

LOOK_SECONDS = 0.0002
PATIENCE_SECONDS = 300

ANSWER_BODY = b"hello from the origin, this is a small body\n"
ANSWER = b"HTTP/1.1 200 OK\r\nserver: origin\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%s" % (
    len(ANSWER_BODY), ANSWER_BODY)


class Idleness:
    """Of a worker: its thread waits in the kernel for something to happen. A thread that sleeps may as well wait for
    its turn, since valgrind runs one at a time."""

    # epoll_wait and its kin, on x86-64 and on arm64.
    WAITS = {"x86_64": {"232", "281", "441"}, "aarch64": {"22", "441"}}[platform.machine()]

    def __init__(self, pid):
        threads = pathlib.Path(f"/proc/{pid}/task").iterdir()
        workers = [thread for thread in threads if (thread / "comm").read_text().strip() == "tidegate-0"]
        self.syscall = workers[0] / "syscall"

    def wait(self):
        while True:
            time.sleep(LOOK_SECONDS)
            if self.syscall.read_text().split()[0] in self.WAITS:
                return


class Origin:
    """Answers requests over HTTP/1.1, on any number of kept connections."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.received = {}

    def answer(self, idleness):
        """Waits for one whole request, and answers it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            for key, _ in self.selector.select(1):
                if key.fileobj is self.listener:
                    connection, _ = self.listener.accept()
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self.selector.register(connection, selectors.EVENT_READ)
                    self.received[connection] = b""
                elif self.has_whole_request(key.fileobj):
                    idleness.wait()
                    key.fileobj.sendall(ANSWER)
                    return
        raise TimeoutError("the proxy sent no request")

    def has_whole_request(self, connection):
        part = connection.recv(1 << 16)
        if not part:
            self.selector.unregister(connection)
            del self.received[connection]
            connection.close()
            return False
        self.received[connection] += part
        length = message_bytes(self.received[connection])
        if length is None or len(self.received[connection]) < length:
            return False
        self.received[connection] = self.received[connection][length:]
        return True


def message_bytes(received):
    """How long a message is, head and body, once its head is there."""
    head, end, _ = received.partition(b"\r\n\r\n")
    if not end:
        return None
    length = header(head, b"content-length")
    return len(head) + len(end) + int(length or 0)


def header(head, name):
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip()
    return None


def connect(address, tls):
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not tls:
        return connection
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context.wrap_socket(connection, server_hostname="shop.test")


class Http1:
    """A client on one kept connection; it returns the cookie that it is given."""

    def __init__(self, origin, idleness, address, tls=False, host="shop.test", body=0, more=b""):
        self.origin, self.idleness = origin, idleness
        self.connection = connect(address, tls)
        method = b"POST" if body else b"GET"
        length = b"content-length: %d\r\n" % body if body else b""
        self.head = b"%s /cart/items HTTP/1.1\r\nhost: %s\r\nuser-agent: bench\r\naccept: */*\r\n%s%s" % (
            method, host.encode(), length, more)
        self.cookie = b""
        self.body = b"x" * body

    def ask(self):
        self.connection.sendall(self.head + self.cookie + b"\r\n" + self.body)
        self.origin.answer(self.idleness)
        received = b""
        while (length := message_bytes(received)) is None or len(received) < length:
            part = self.connection.recv(1 << 16)
            if not part:
                raise ConnectionError("the proxy closed the connection")
            received += part
        assert received.startswith(b"HTTP/1.1 200"), received
        if cookie := header(received.partition(b"\r\n\r\n")[0], b"set-cookie"):
            self.cookie = b"cookie: %s\r\n" % cookie.split(b";")[0]
        self.idleness.wait()

    def close(self):
        self.connection.close()


class Http1Anew:
    """A client that connects for each request."""

    def __init__(self, *ends):
        self.ends, self.idleness = ends, ends[1]

    def ask(self):
        client = Http1(*self.ends, more=b"connection: close\r\n")
        client.ask()
        client.close()
        self.idleness.wait()

    def close(self):
        pass


class Http2:
    """A client on one connection with one stream at a time; just enough of RFC 9113, without a table of headers."""

    DATA, HEADERS, SETTINGS, PING, GOAWAY = 0, 1, 4, 6, 7
    END_STREAM, ACK, END_HEADERS = 1, 1, 4

    def __init__(self, origin, idleness, address):
        self.origin, self.idleness = origin, idleness
        self.connection = connect(address, tls=False)
        self.received = b""
        self.stream = 1
        # ":method: GET", ":scheme: http", and by name: ":path", ":authority", "user-agent", "accept".
        fields = [(4, b"/cart/items"), (1, b"shop.test"), (58, b"bench"), (19, b"*/*")]
        self.head = b"\x82\x86" + b"".join(literal(name, value) for name, value in fields)
        window = struct.pack(">I", (1 << 31) - 1 - 65535)
        self.connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(self.SETTINGS) + frame(8, payload=window))

    def ask(self):
        self.connection.sendall(frame(self.HEADERS, self.END_STREAM | self.END_HEADERS, self.stream, self.head))
        self.origin.answer(self.idleness)
        has_ended = False
        while not has_ended:
            kind, flags, stream, payload = self.read()
            if kind == self.SETTINGS and not flags & self.ACK:
                self.connection.sendall(frame(self.SETTINGS, self.ACK))
            elif kind == self.PING and not flags & self.ACK:
                self.connection.sendall(frame(self.PING, self.ACK, payload=payload))
            elif kind == self.HEADERS:
                assert payload.startswith(b"\x88"), "the status is not 200"
            assert kind not in (self.GOAWAY, 3), "the proxy gave up"
            has_ended = kind in (self.DATA, self.HEADERS) and stream == self.stream and flags & self.END_STREAM
        self.stream += 2
        self.idleness.wait()

    def read(self):
        while len(self.received) < 9 or len(self.received) < 9 + int.from_bytes(self.received[:3], "big"):
            part = self.connection.recv(1 << 16)
            if not part:
                raise ConnectionError("the proxy closed the connection")
            self.received += part
        end = 9 + int.from_bytes(self.received[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", self.received[3:9])
        payload, self.received = self.received[9:end], self.received[end:]
        return kind, flags, stream, payload

    def close(self):
        self.connection.close()


def frame(kind, flags=0, stream=0, payload=b""):
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def literal(index, value):
    """A field that isn't remembered, its name from the static table (RFC 7541, 6.2.2)."""
    prefix = bytes([index]) if index < 15 else bytes([15, index - 15])
    return prefix + bytes([len(value)]) + value
