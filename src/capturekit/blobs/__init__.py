"""Stored bytes, addressed by their content: in a folder, or in a bucket that speaks S3.

A blob's address is the SHA-256 of its bytes, so the same picture is kept once and every
read checks what it reads.
"""

from capturekit.blobs.base import Blobs, BlobUsage, Fault, Proof, StoredBlob
from capturekit.blobs.files import FileBlobs
from capturekit.blobs.proof import prove
from capturekit.blobs.urls import open_blobs

__all__ = [
    "BlobUsage",
    "Blobs",
    "Fault",
    "FileBlobs",
    "Proof",
    "StoredBlob",
    "open_blobs",
    "prove",
]
