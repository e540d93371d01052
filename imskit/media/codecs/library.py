"""The C codecs, found as shared libraries when they are first needed (cffi, ABI mode: nothing to compile)."""

from __future__ import annotations

import ctypes.util
import functools
from typing import Any

import cffi

from imskit.media.codecs.base import CodecUnavailableError

ffi = cffi.FFI()
ffi.cdef(
    """
    typedef struct OpusEncoder OpusEncoder;
    typedef struct OpusDecoder OpusDecoder;
    OpusEncoder *opus_encoder_create(int32_t rate, int channels, int application, int *error);
    void opus_encoder_destroy(OpusEncoder *);
    int opus_encoder_ctl(OpusEncoder *, int request, ...);
    int32_t opus_encode(OpusEncoder *, const int16_t *pcm, int frame_size, unsigned char *data, int32_t size);
    OpusDecoder *opus_decoder_create(int32_t rate, int channels, int *error);
    void opus_decoder_destroy(OpusDecoder *);
    int opus_decode(OpusDecoder *, const unsigned char *data, int32_t size, int16_t *pcm, int frame_size, int fec);
    int opus_packet_get_nb_samples(const unsigned char *data, int32_t size, int32_t rate);

    void *D_IF_init(void);
    void D_IF_exit(void *);
    void D_IF_decode(void *, const unsigned char *frame, short *pcm, int bad);
    void *E_IF_init(void);
    void E_IF_exit(void *);
    int E_IF_encode(void *, int mode, const short *pcm, unsigned char *frame, int dtx);

    void *Decoder_Interface_init(void);
    void Decoder_Interface_exit(void *);
    void Decoder_Interface_Decode(void *, const unsigned char *frame, short *pcm, int bad);
    void *Encoder_Interface_init(int dtx);
    void Encoder_Interface_exit(void *);
    int Encoder_Interface_Encode(void *, int mode, const short *pcm, unsigned char *frame, int force);
    """
)

# Library by short name: its versioned file (what a runtime package installs) and Debian package.
_LIBRARIES = {
    "opus": ("libopus.so.0", "libopus0"),
    "opencore-amrnb": ("libopencore-amrnb.so.0", "libopencore-amrnb0"),
    "opencore-amrwb": ("libopencore-amrwb.so.0", "libopencore-amrwb0"),
    "vo-amrwbenc": ("libvo-amrwbenc.so.0", "libvo-amrwbenc0"),
}


@functools.cache
def load(name: str) -> Any:
    """Return the library ``name``; ``CodecUnavailableError`` naming the package when it is not installed."""
    file, package = _LIBRARIES[name]
    for candidate in (file, ctypes.util.find_library(name)):
        if candidate is None:
            continue
        try:
            return ffi.dlopen(candidate)
        except OSError:
            continue
    raise CodecUnavailableError(f"{file} is not on this device: install the package {package}")
