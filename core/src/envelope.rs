//! What travels: padded and sealed envelope bodies, gate values, mail between devices that share no group.
//!
//! A body is nonce ‖ AES-128-GCM(seal key of the epoch, padded plaintext), a gate value the same under the epoch's gate key with
//! the gate's name as additional data, mail for a stranger HPKE. Plaintexts begin with a tag that says what follows.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    error::{Kind, Result},
    provider::{open, random, seal, sha256},
    storage::{decode, encode},
};

pub const TAG_MESSAGE: u8 = 0;
pub const TAG_COMMIT: u8 = 1;
pub const TAG_LOOK_AT_GATE: u8 = 2;
pub const TAG_WELCOME: u8 = 16;
pub const TAG_REJOIN: u8 = 17;
/// The gate value holds commit and Welcomes themselves. 1 is reserved for a reference to a blob that does.
const TAG_GATE_INLINE: u8 = 0;

pub const MAX_BODY_BYTES: usize = 64 * 1024;
pub const MAX_GATE_VALUE_BYTES: usize = 48 * 1024;
/// A commit with a larger gate value is announced by a notice, not sent along.
pub const MAX_ANNOUNCED_BYTES: usize = 32 * 1024;
const MIN_PADDED_BYTES: usize = 256;
const NONCE_BYTES: usize = 12;
const PADDING_MARK: u8 = 0x80;
const COMMIT_NONCE_LABEL: &[u8] = b"taube commit body v1";

/// Padmé (Nikitin et al., PETS 2019), at least 256: leaks O(log log n) bits of a size and costs at most 12 %.
pub fn padded_size(size: usize) -> usize {
    if size <= MIN_PADDED_BYTES {
        return MIN_PADDED_BYTES;
    }
    let exponent = size.ilog2();
    let kept_bits = exponent.ilog2() + 1;
    let mask = (1usize << (exponent - kept_bits)) - 1;
    size.saturating_add(mask) & !mask
}

/// tag ‖ payload ‖ 0x80 ‖ zeros, up to the padded size.
pub fn pad(tag: u8, payload: &[u8]) -> Vec<u8> {
    let mut plaintext = Vec::with_capacity(padded_size(payload.len() + 2));
    plaintext.push(tag);
    plaintext.extend_from_slice(payload);
    plaintext.push(PADDING_MARK);
    plaintext.resize(padded_size(plaintext.len()), 0);
    plaintext
}

/// (tag, payload), or nothing if the padding is wrong.
pub fn unpad(plaintext: &[u8]) -> Option<(u8, &[u8])> {
    let mark = plaintext.iter().rposition(|byte| *byte != 0)?;
    let (PADDING_MARK, [tag, payload @ ..]) = (plaintext[mark], &plaintext[..mark]) else { return None };
    Some((*tag, payload))
}

fn seal_with(key: &[u8], nonce: &[u8], aad: &[u8], tag: u8, payload: &[u8]) -> Result<Vec<u8>> {
    let sealed = seal(key, nonce, aad, &pad(tag, payload)).ok_or_else(|| Kind::Internal.because("sealing failed"))?;
    Ok([nonce, &sealed].concat())
}

fn open_with(key: &[u8], aad: &[u8], bytes: &[u8]) -> Option<Vec<u8>> {
    let (nonce, sealed) = bytes.split_at_checked(NONCE_BYTES)?;
    open(key, nonce, aad, sealed)
}

fn at_most(limit: usize, what: &str, bytes: Vec<u8>) -> Result<Vec<u8>> {
    if bytes.len() <= limit { Ok(bytes) } else { Err(Kind::TooLarge.because(format!("the {what} is above {limit} bytes"))) }
}

pub fn seal_body(key: &[u8], tag: u8, payload: &[u8]) -> Result<Vec<u8>> {
    at_most(MAX_BODY_BYTES, "envelope", seal_with(key, &random::<NONCE_BYTES>(), b"", tag, payload)?)
}

pub fn open_body(key: &[u8], body: &[u8]) -> Option<Vec<u8>> {
    open_with(key, b"", body)
}

/// The body that tells the members of the old epoch of a commit. Its nonce comes from its content, so that every member who
/// finishes for a dead committer makes the same bytes, and receivers see one envelope.
pub fn seal_commit_body(key: &[u8], k: u8, gate_value: &[u8]) -> Result<Vec<u8>> {
    let nonce = &sha256(&[COMMIT_NONCE_LABEL, &[k], gate_value])[..NONCE_BYTES];
    if gate_value.len() > MAX_ANNOUNCED_BYTES {
        return seal_with(key, nonce, b"", TAG_LOOK_AT_GATE, &encode(&(k,)));
    }
    seal_with(key, nonce, b"", TAG_COMMIT, &encode(&(k, ByteBuf::from(gate_value))))
}

/// (k, gate value) of a commit body's payload.
pub fn read_commit(payload: &[u8]) -> Option<(u8, ByteBuf)> {
    decode(payload).ok()
}

pub fn read_notice(payload: &[u8]) -> Option<u8> {
    decode::<(u8,)>(payload).ok().map(|(k,)| k)
}

/// What a gate holds: the commit, the Welcomes by address, and the committer's time, at which the added packages were valid.
#[derive(Serialize, Deserialize)]
pub struct GateValue {
    pub commit: ByteBuf,
    pub welcomes: Vec<(ByteBuf, ByteBuf)>,
    pub time_s: u64,
}

impl GateValue {
    pub fn seal(&self, key: &[u8], name: &[u8]) -> Result<Vec<u8>> {
        let sealed = seal_with(key, &random::<NONCE_BYTES>(), name, TAG_GATE_INLINE, &encode(self))?;
        at_most(MAX_GATE_VALUE_BYTES, "gate value", sealed)
    }

    pub fn open(key: &[u8], name: &[u8], value: &[u8]) -> Option<Self> {
        let plaintext = open_with(key, name, value)?;
        let (TAG_GATE_INLINE, payload) = unpad(&plaintext)? else { return None };
        decode(payload).ok()
    }
}
