"""Where an image may lie, once its URI was found to be allowed."""

from __future__ import annotations

import re
import tarfile
import zlib
from dataclasses import dataclass
from typing import Final

from batchrec.storage.hosts import HttpObject

#: Of a member of a tar archive, before its bytes.
HEADER_BYTES: Final = tarfile.BLOCKSIZE
#: ``ARCHIVE.tar#OFFSET+SIZE~CRC/NAME``; the name is for people.
MEMBER = re.compile(r"(.+?\.tar)#([0-9]{1,18})\+([0-9]{1,18})~([0-9a-f]{8})/.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file by its path below an allowed folder; not opened yet, so nothing is known of links on the way."""

    root: str
    path: str


@dataclass(frozen=True, slots=True)
class S3Object:
    """An object in an allowed bucket."""

    bucket: str
    key: str


@dataclass(frozen=True, slots=True)
class TarMember:
    """An image inside an allowed tar archive.

    Attributes:
        archive: Where the archive is.
        offset: Where in it the image's bytes begin, behind the 512 of their header.
        size: How many they are.
        header_crc: CRC-32 of the header.
    """

    archive: LocalFile | S3Object
    offset: int
    size: int
    header_crc: int

    @property
    def first(self) -> int:
        """Where its header begins."""
        return self.offset - HEADER_BYTES

    @property
    def end(self) -> int:
        """Where its bytes end."""
        return self.offset + self.size


Place = LocalFile | S3Object | HttpObject | TarMember


def may_name_member(uri: str | None) -> bool:
    """Whether a URI may name a member of an archive; cheap, for it is asked of every one."""
    return uri is not None and ".tar#" in uri


def member_uri(archive: str, offset: int, size: int, header: bytes, name: str) -> str:
    """Return the URI of a member, whose header lies right before its bytes."""
    return f"{archive}#{offset}+{size}~{zlib.crc32(header):08x}/{name}"
