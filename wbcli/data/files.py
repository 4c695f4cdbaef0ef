"""Finding, downloading and checking the files of a data set."""

import hashlib
import os
import shutil
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

TIMEOUT_SECONDS = 20
CHUNK = 1 << 20
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
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    opener = urllib.request.build_opener(_HttpsOnly)
    try:
        with opener.open(url, timeout=TIMEOUT_SECONDS) as reply, partial.open("wb") as file:
            shutil.copyfileobj(reply, file, CHUNK)
            file.flush()
            os.fsync(file.fileno())
        check_sha256(partial, sha256, f"the download of {url}")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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


def extract(archive: Path, folder: str, members: list[str], root: Path) -> None:
    """Unpack the named regular files of `folder` from a checked tar archive into root/folder.

    Raises:
        ValueError: a member is missing or is not a regular file.
    """
    target = root / folder
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        for name in members:
            try:
                source = tar.extractfile(f"{folder}/{name}")
            except (KeyError, tarfile.TarError):
                source = None
            if source is None:
                raise ValueError(f"{archive} holds no file {folder}/{name}: fetch it again")
            partial = target / f".{name}.partial"
            with source, partial.open("wb") as file:
                shutil.copyfileobj(source, file, CHUNK)
            partial.replace(target / name)
