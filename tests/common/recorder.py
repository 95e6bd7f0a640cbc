# An nbdkit plugin (python): a disk that writes down what is done to it. Every write and flush is in the log before it is
# acknowledged, in the order in which the disk got them. See recorder.rs.
import os
import struct

import nbdkit

API_VERSION = 2
paths = {}


def config(key, value):
    paths[key] = value


def thread_model():
    return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS


def open(readonly):
    return {
        "disk": os.open(paths["disk"], os.O_RDWR),
        "log": os.open(paths["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    }


def get_size(handle):
    return os.fstat(handle["disk"]).st_size


def can_flush(handle):
    return True


def pread(handle, buffer, offset, flags):
    os.preadv(handle["disk"], [buffer], offset)


def pwrite(handle, buffer, offset, flags):
    os.pwrite(handle["disk"], buffer, offset)
    record = struct.pack("<QQ", offset, len(buffer)) + bytes(buffer)
    assert os.write(handle["log"], record) == len(record)


def flush(handle, flags):
    # A write of no bytes.
    os.write(handle["log"], struct.pack("<QQ", 0, 0))
