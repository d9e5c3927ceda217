"""The table of what is fuzzed: each target with the code that it is about, and words that help to get into it.

It knows no fuzzer and no input; what a target does stands in targets.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.fuzz import targets
from tests.fuzz import world as w
from tests.fuzz.lines import HAPPENINGS
from tests.fuzz.targets import CUT, Outcomes


@dataclass(frozen=True)
class Target:
    """*play* is what is fuzzed, *words* what mutations put in; *share* of the time is counted against the others'.

    *files* are the modules whose lines are counted; behind `#` the only functions and classes that count.
    """

    play: Callable[[bytes], Outcomes]
    files: tuple[str, ...]
    words: tuple[bytes, ...] = ()
    most_bytes: int = 4096
    share: float = 1.0


HTTP: Final = tuple(
    (
        b"GET |HEAD |POST |CONNECT |OPTIONS * |/v1/socket|/i|/c|/.well-known/taube|http://x/|?a=b|#f|%00|%2e%2e/"
        b"| HTTP/1.1\r\n| HTTP/1.0\r\n|\r\n\r\n|Host: x\r\n|Upgrade: websocket\r\n|Connection: Upgrade\r\n"
        b"|Connection: keep-alive\r\n|Sec-WebSocket-Version: 13\r\n|Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"|Content-Length: |Content-Length: 5\r\n|Transfer-Encoding: chunked\r\n|0\r\n\r\n|5\r\nhello\r\n"
        b"|Expect: 100-continue\r\n|PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    ).split(b"|")
)
BLOBS: Final = tuple(
    (
        b"PATCH |Upload-Secret: |Upload-Length: 272\r\n|Upload-Length: |Upload-Offset: 0\r\n|Upload-Offset: "
        b"|Upload-Days: |Content-Length: 272\r\n|Range: bytes=|-|bytes=1-2|272|2048|99999999999999"
    ).split(b"|")
)
PACKED: Final = (
    CUT,
    *(bytes([first]) for first in (0x80, 0x90, 0x91, 0x92, 0x93, 0x94, 0x95, 0x96, 0xA0, 0xC0, 0xC2, 0xC3)),
    *(b"\xc4" + bytes([size]) for size in (8, 16, 32, 41, 64, 65)),
    *(bytes.fromhex(text) for text in ("c50100", "cc80", "cdffff", "ceffffffff", "cf0020000000000000", "d920")),
    *(bytes.fromhex(text) for text in ("dc0010", "dd00000005", "cb7ff0000000000000", "d3ffffffffffffffff")),
)
LINK: Final = tuple(
    b"https://|http://127.0.0.1|/c#|/i#|[::1]|:443|#|?|@|%|\xe2\x80\xae|\xc2\xad|\xef\xbc\xa1".split(b"|")
)
STEPS: Final = tuple(CUT + bytes([first]) for first in (0x02, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A, *range(0x7B, 0x80)))
HAPPENS: Final = tuple(CUT + b"\xc0" + bytes([number]) for number in range(len(HAPPENINGS)))
PUSH: Final = tuple(
    (
        b"HTTP/1.1 |201 Created\r\n|404|410|429|503|100 Continue\r\n\r\n|Retry-After: |120|Content-Length: "
        b"|0\r\n\r\n|\r\n\r\n|Transfer-Encoding: chunked\r\n|Connection: close\r\n|Content-Encoding: gzip\r\n"
        b"|Mon, 01 Jan 0001 00:00:00 GMT|Fri, 31 Dec 9999 23:59:59 -2359|-0000|5\r\nhello\r\n"
    ).split(b"|")
)
TOML: Final = tuple(
    (
        b"[mailboxes]\n|[limits]\n|[sqlite]\n|[listener]\n|[connection]\n|[drain]\n|unused_months|window_bytes|keys"
        b"|flush_s|= |inf|nan|-1|1e400|0x|true|\"\"\"|'''|[[|]]|{|}|1979-05-27|.|#|_"
    ).split(b"|")
)

TARGETS: Final[dict[str, Target]] = {
    "frames": Target(targets.frames, ("wire/codec.py", "wire/packing.py"), PACKED),
    "server_session": Target(targets.server_session, ("wire/session.py#_Session,ServerSession",), PACKED),
    "client_session": Target(targets.client_session, ("wire/session.py#_Session,ClientSession",), PACKED),
    "commands": Target(
        targets.commands,
        (
            "server/gateway/connection.py#Turn,Connection",
            "server/gateway/dispatch.py",
            "server/services/accounts.py",
            "server/services/mailboxes.py",
            "server/services/keys.py",
            "server/services/addresses.py",
            "server/services/gates.py",
            "server/limits.py#Limits,charge",
            "server/gateway/hub.py",
        ),
        (*PACKED, *HAPPENS),
        share=2,
    ),
    "port": Target(
        targets.port,
        (
            "server/gateway/listener.py#websocket_key,FirstBytes,_accept,_admit,_greet,released",
            "server/pages.py#_answer_with_file,application,answer,_begin",
        ),
        (CUT, *HTTP),
        share=2,
    ),
    "websocket": Target(
        targets.websocket,
        ("server/gateway/websocket.py#WebSocket,upgrade", "server/gateway/connection.py#Turn,Connection"),
        (*PACKED, *STEPS),
        share=2,
    ),
    "blob_requests": Target(
        targets.blob_requests,
        (
            "server/gateway/blobs.py#BlobTraffic,_Exchange,_Transfer,_Conflict,_LengthRequired,_progress",
            "server/services/blobs.py",
            "server/stores/objects.py",
        ),
        (CUT, CUT + b"\xc0", targets.BLOB, targets.SECRET_TEXT, *BLOBS, *HTTP),
    ),
    "inside_tls": Target(
        targets.inside_tls,
        (
            "server/gateway/listener.py#websocket_key,FirstBytes,Doorstep,_accept,_admit,_greet,_sent_away,released",
            "server/gateway/websocket.py#WebSocket,upgrade",
        ),
        (*PACKED, *STEPS, *HTTP),
    ),
    "tls_port": Target(
        targets.tls_port,
        ("server/gateway/listener.py#Doorstep,_accept,_admit,_greet,_sent_away,released",),
        (CUT, b"\x16\x03\x01", b"\x15\x03\x03", b"\x17\x03\x03", b"\x14"),
    ),
    "links": Target(
        targets.links,
        (
            "client/contacts.py#contact_link,parse_contact_link,one_line,clean_name",
            "client/devices.py#decode_base64,split_link,parse_invitation",
            "client/transport.py#socket_url",
            "server/folder.py#check_origin,is_loopback",
            "server/admin.py#_invitation,_account",
        ),
        LINK,
    ),
    "names": Target(
        targets.names,
        (
            "client/contacts.py#one_line,clean_name,skeleton",
            "terminal.py#is_harmful,_is_tag,safe_line,safe_text,_safe_character,json_line,_escape",
        ),
        LINK,
        512,
    ),
    "contents": Target(targets.contents, ("client/content.py",), PACKED),
    "push_answers": Target(targets.push_answers, ("server/providers/web_push.py#_post,_answer,_seconds",), PUSH, 1024),
    "push_rows": Target(
        targets.push_rows,
        (
            "server/services/push.py#check_endpoint,is_public,_refused",
            "server/secrets.py#encrypt_push",
            "server/providers/web_push.py#_authorization",
        ),
        (CUT, *LINK, w.PUSH_KEY.public, b".internal", b"10.0.0.1", b"0x7f.1", b"%25", b"xn--", b"64:ff9b::"),
        1024,
    ),
    "device_lists": Target(
        targets.device_lists,
        ("server/services/accounts.py#check_genesis,check_list,check_new", "server/secrets.py#verify"),
        PACKED,
    ),
    "backups": Target(
        targets.backups,
        (
            "server/backup.py#restore,finish,_prepare,_take,_check_origin,_origin_in,_check_facts,_name",
            "server/stores/sqlite.py#examine,prepare,read_facts,transaction,join_log,_unusable,_not_ours,_check_version",
            "server/services/identity.py#damage,_fits,establish,_read,start_clock,push_key",
        ),
        (CUT, b"\xff\xff\xfe", b"SQLite format 3\x00", b"\x00\x00\x10", b"\xff\xff\xff", b"https://"),
        share=0.5,
    ),
    "core": Target(targets.core, ("client/e2e.py#_call,call",), PACKED, share=0.5),
    "settings": Target(targets.settings, ("server/config.py#read_config,_set",), TOML),
}
