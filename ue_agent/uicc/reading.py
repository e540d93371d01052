"""Whole files off the card: SELECT, then READ BINARY or READ RECORD as often as it takes (TS 102 221 clause 11.1).

Cards are seen whose FCP announces more octets or records than there are: what is there is what counts.
"""

from __future__ import annotations

import logging

from ue_agent.uicc.apdu import CardChannel, meaning, read_binary, read_record, select_file
from ue_agent.uicc.errors import CardError
from ue_agent.uicc.files import Ef, decode_fcp

_log = logging.getLogger(__name__)
_MAX_FILE = 4096
_MAX_RECORDS = 254
_RECORD_NOT_FOUND = 0x6A83
_BEYOND_THE_END = (0x6B00, 0x6282, 0x9402)


def read_file(channel: CardChannel, ef: Ef) -> bytes:
    """Return a transparent file below the current directory, up to 4096 octets; ``CardError``, ``CardDataError``."""
    info = decode_fcp(channel.require(select_file(ef.fid, ef.name)))
    if info.size is None:
        return channel.require(read_binary(0, ef.name))
    content = b""
    while len(content) < min(info.size, _MAX_FILE):
        command = read_binary(len(content), ef.name, min(256, info.size - len(content)))
        answer = channel.send(command)
        if content and answer.sw in _BEYOND_THE_END:
            break
        if not answer.ok:
            raise CardError(answer.sw, meaning(answer.sw), command.name)
        if not answer.data:
            break
        content += answer.data
    if len(content) < min(info.size, _MAX_FILE):
        _log.info("%s is shorter than the card says: %d octets, not %d", ef.name, len(content), info.size)
    return content


def read_records(channel: CardChannel, ef: Ef) -> list[bytes]:
    """Return the records of a linear fixed file below the current directory; ``CardError``, ``CardDataError``."""
    info = decode_fcp(channel.require(select_file(ef.fid, ef.name)))
    records: list[bytes] = []
    for number in range(1, (info.records or _MAX_RECORDS) + 1):
        command = read_record(number, ef.name, info.record_length or 256)
        answer = channel.send(command)
        if answer.sw == _RECORD_NOT_FOUND and (records or info.records is None):
            break
        if not answer.ok:
            raise CardError(answer.sw, meaning(answer.sw), command.name)
        records.append(answer.data)
    return records
