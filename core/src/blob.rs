//! Files sealed in chunks of 64 KiB, so that neither end holds a whole one: STREAM (Hoang et al., CRYPTO 2015) of RustCrypto over
//! AES-256-GCM, a key for each file.
//!
//! The plaintext is the file and zeros up to its padded size. Its size decides how many chunks there are and which one is the
//! last, so a host says only size and index, and cannot say them wrongly.

use aead_stream::{NewStream as _, StreamBE32, StreamPrimitive as _};
use aes_gcm::{Aes256Gcm, KeyInit as _};

use crate::{
    envelope::padded_size,
    error::{Kind, Result},
};

const CHUNK_BYTES: usize = 64 * 1024;
const MAX_FILE_BYTES: usize = 1 << 30;
/// A key seals one file only, so its nonces need nothing but counter and last flag.
const NONCE_PREFIX: [u8; 7] = [0; 7];

/// One chunk of a file: where it begins, how many bytes of the file it holds and how many with the padding, whether it is the last.
struct Chunk {
    index: u32,
    file_bytes: usize,
    padded_bytes: usize,
    is_last: bool,
}

fn chunk(size: u32, index: u32) -> Result<Chunk> {
    let size = size as usize;
    if size > MAX_FILE_BYTES {
        return Err(Kind::TooLarge.because("the file is above 1 GiB"));
    }
    let padded = padded_size(size);
    let last = (padded - 1) / CHUNK_BYTES;
    if index as usize > last {
        return Err(Kind::Malformed.because("the file has no such chunk"));
    }
    let start = index as usize * CHUNK_BYTES;
    Ok(Chunk {
        index,
        file_bytes: size.saturating_sub(start).min(CHUNK_BYTES),
        padded_bytes: (padded - start).min(CHUNK_BYTES),
        is_last: index as usize == last,
    })
}

fn stream(key: &[u8]) -> Result<StreamBE32<Aes256Gcm>> {
    let cipher = Aes256Gcm::new_from_slice(key).map_err(|_| Kind::Malformed.because("a blob's key has 32 bytes"))?;
    Ok(StreamBE32::from_aead(cipher, &NONCE_PREFIX.into()))
}

/// Chunk *index* of a file of *size* bytes, sealed; *piece* is what of the file belongs into it.
pub fn seal(key: &[u8], size: u32, index: u32, mut piece: Vec<u8>) -> Result<Vec<u8>> {
    let chunk = chunk(size, index)?;
    if piece.len() != chunk.file_bytes {
        return Err(Kind::Malformed.because("the piece has not the length of this chunk"));
    }
    piece.resize(chunk.padded_bytes, 0);
    let sealed = stream(key)?.encrypt_in_place(chunk.index, chunk.is_last, b"", &mut piece);
    sealed.map_err(|_| Kind::Internal.because("sealing failed"))?;
    Ok(piece)
}

/// What chunk *index* of a sealed file of *size* bytes holds of the file; nothing for a chunk that is altered, moved, cut or not its last.
pub fn open(key: &[u8], size: u32, index: u32, mut sealed: Vec<u8>) -> Result<Vec<u8>> {
    let chunk = chunk(size, index)?;
    let opened = stream(key)?.decrypt_in_place(chunk.index, chunk.is_last, b"", &mut sealed);
    opened.map_err(|_| Kind::Unverified.because("the chunk does not open"))?;
    if sealed.len() != chunk.padded_bytes || sealed[chunk.file_bytes..].iter().any(|byte| *byte != 0) {
        return Err(Kind::Unverified.because("the chunk is not padded as its file's size says"));
    }
    sealed.truncate(chunk.file_bytes);
    Ok(sealed)
}
