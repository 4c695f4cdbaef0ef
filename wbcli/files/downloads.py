"""Finding, downloading and checking the files of a data set."""

import gzip
import hashlib
import http.client
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TIMEOUT_SECONDS = 20
ABANDONED_SECONDS = 3600  # nobody still writes a partial file that is as old
CHUNK = 1 << 20
MAX_DOWNLOAD_BYTES = 1 << 30  # the archives of CIFAR have 170 million
MAX_UNPACKED_BYTES = 1 << 29  # of all that an archive holds; those of CIFAR, 186 million
OFFLINE = "digitslt (in wbcli), fashionmnistlt (Debian/Ubuntu package dataset-fashion-mnist)"


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if not newurl.startswith("https://"):
            raise urllib.error.URLError(f"refused a redirect away from https, to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, path: Path, sha256: str) -> None:
    """Fetch `url` over https into `path`; the name appears only once the SHA-256 is right.

    Raises:
        OSError: no network, a full disk.
        ValueError: the bytes that came are not the published file.
    """
    assert url.startswith("https://")
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = urllib.request.build_opener(_HttpsOnly)
    try:
        with _partial(path) as partial:
            with opener.open(url, timeout=TIMEOUT_SECONDS) as reply, partial.open("xb") as file:
                _receive(reply, file, url)
                file.flush()
                os.fsync(file.fileno())
            check_sha256(partial, sha256, f"the download of {url}")
            partial.replace(path)
    except http.client.HTTPException as error:  # is no OSError
        raise ConnectionError(f"{url}: the answer is damaged ({error!r})") from error


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A name beside `path` to write under, gone at the end; so are those of killed processes."""
    for old in path.parent.glob(f".{path.name}.*.partial"):
        if time.time() - old.lstat().st_mtime > ABANDONED_SECONDS:
            old.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _receive(reply, file, url: str) -> None:
    promised, size = reply.headers.get("Content-Length"), 0
    while piece := reply.read(CHUNK):
        size += len(piece)
        if size > MAX_DOWNLOAD_BYTES:
            raise ValueError(f"{url}: expected at most {MAX_DOWNLOAD_BYTES:,} bytes, more come")
        file.write(piece)
    if promised and promised.isdecimal() and size < int(promised):
        raise ConnectionError(
            f"{url}: the connection ended after {size:,} of {int(promised):,} bytes"
        )


def download_for(
    dataset: str, url: str, path: Path, sha256: str, needed: str, folder: Path
) -> None:
    """`download`, or an error that says which files belong where and what needs no network."""
    try:
        download(url, path, sha256)
    except OSError as error:
        raise FileNotFoundError(
            f"{dataset}: its files are not here and the download failed ({error}). "
            f"Expected {needed} in {folder}; put them there, or name their folder with "
            f"--data-dir. Without a network: {OFFLINE}"
        ) from error


def check_sha256(path: Path, expected: str, what: str) -> None:
    """Raises ValueError unless the file's SHA-256 is `expected`."""
    found = digest(path, "sha256")
    if found != expected:
        raise ValueError(
            f"{what} is not the published file: expected SHA-256 {expected}, got {found}; "
            "delete it and fetch it again"
        )


def digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


class _Unpacked(gzip.GzipFile):
    """Gives no more than a published archive holds, nor all of it at once: tarfile asks for as
    much as a header says.
    """

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= CHUNK:
            raise ValueError("a header of it is too large")
        self._bound(self.tell() + size)
        return super().read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._bound(offset)
        return super().seek(offset, whence)

    def _bound(self, offset: int) -> None:
        if offset > MAX_UNPACKED_BYTES:
            raise ValueError(f"it holds more than {MAX_UNPACKED_BYTES:,} bytes")


def extract(archive: Path, folder: str, members: list[str], root: Path) -> None:
    """Unpack the named regular files of `folder` from a checked .tar.gz into root/folder.

    Raises:
        ValueError: the archive is damaged or too large; a member is missing or no regular file.
    """
    target = root / folder
    target.mkdir(parents=True, exist_ok=True)
    try:
        with (
            _Unpacked(archive) as unpacked,
            tarfile.open(fileobj=unpacked, mode="r:") as tar,
        ):
            for name in members:
                _extract_one(tar, f"{folder}/{name}", target / name)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
        raise ValueError(f"{archive}: {error}; delete it and fetch it again") from error


def _extract_one(tar: tarfile.TarFile, name: str, path: Path) -> None:
    try:
        member = tar.getmember(name)
    except KeyError:
        member = None
    if member is None or not member.isreg() or member.issparse():
        raise ValueError(f"it holds no regular file {name}")
    with _partial(path) as partial:
        with tar.extractfile(member) as source, partial.open("xb") as file:
            shutil.copyfileobj(source, file, CHUNK)
            if file.tell() != member.size:
                raise ValueError(f"{name} ends early")
        partial.replace(path)
