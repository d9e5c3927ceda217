//! OpenMLS' storage as scoped key/value rows: a call writes into an overlay that becomes deltas, or is thrown away on error.
//!
//! Values are MessagePack (self-describing, which OpenMLS' types need; byte strings stay byte strings). A row is written only
//! when its bytes change. The message secrets, which OpenMLS writes as one record with every past epoch inside, are split into
//! a row for each epoch, so that a message writes the row of its epoch only.
//!
//! A row's key is one byte that says what it is, then its epoch or reference if there are several.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
};

use openmls_traits::storage::{CURRENT_VERSION as V, StorageProvider, traits};
use serde::{Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;

use crate::codec;
pub use crate::codec::encode;

pub type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

pub const PACKAGES: &[u8] = b"packages";

/// What the first byte of a row's key means. OpenMLS' records are lower case, what we keep beside them upper case.
pub mod row {
    pub const JOIN_CONFIG: u8 = b'c';
    pub const EPOCH_SECRETS: u8 = b'e';
    pub const CONFIRMATION_TAG: u8 = b'f';
    pub const INTERIM_TRANSCRIPT_HASH: u8 = b'i';
    pub const EPOCH_KEY_PAIRS: u8 = b'k';
    pub const MESSAGE_SECRETS: u8 = b'm';
    pub const PAST_MESSAGE_SECRETS: u8 = b'n';
    pub const OWN_LEAF_INDEX: u8 = b'o';
    pub const KEY_PACKAGE: u8 = b'p';
    pub const RESUMPTION_PSKS: u8 = b'r';
    pub const GROUP_STATE: u8 = b's';
    pub const TREE: u8 = b't';
    pub const GROUP_CONTEXT: u8 = b'x';
    pub const EPOCH_KEYS: u8 = b'E';
    pub const PENDING: u8 = b'P';
}

/// One write: scope, key, value. No value deletes; an empty key without a value deletes every row of the scope.
#[derive(Serialize, Debug)]
pub struct Delta(pub ByteBuf, pub ByteBuf, pub Option<ByteBuf>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageError {
    NotLoaded,
    Corrupt,
    Unsupported,
}

impl std::fmt::Display for StorageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for StorageError {}

type Result<T> = std::result::Result<T, StorageError>;

/// Rows that were written (or deleted) by scope, and the scopes that began anew before that.
#[derive(Default)]
struct Writes {
    cleared: BTreeSet<Vec<u8>>,
    rows: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
}

#[derive(Default)]
struct State {
    scopes: BTreeMap<Vec<u8>, Rows>,
    /// What the running step has written.
    step: Writes,
    /// What the steps before it in the same call have written; for the host to store.
    kept: Writes,
}

impl State {
    fn base(&self, scope: &[u8], key: &[u8]) -> Option<&Vec<u8>> {
        if self.step.cleared.contains(scope) { None } else { self.scopes.get(scope)?.get(key) }
    }

    fn get(&self, scope: &[u8], key: &[u8]) -> Option<&Vec<u8>> {
        match self.step.rows.get(scope).and_then(|rows| rows.get(key)) {
            Some(value) => value.as_ref(),
            None => self.base(scope, key),
        }
    }
}

/// The loaded scopes and what the running call has written.
#[derive(Default)]
pub struct Storage {
    state: RefCell<State>,
    touched: Cell<Option<u64>>,
}

impl Storage {
    /// While *work* runs, of the message secrets only those of *epoch* and of the current epoch change: the others, which may be
    /// many, are not written out to see that they are the same.
    pub fn touching<T>(&self, epoch: u64, work: impl FnOnce() -> T) -> T {
        self.touched.set(Some(epoch));
        let result = work();
        self.touched.set(None);
        result
    }

    pub fn load(&self, scope: Vec<u8>, rows: Rows) {
        self.state.borrow_mut().scopes.insert(scope, rows);
    }

    pub fn unload(&self, scope: &[u8]) {
        self.state.borrow_mut().scopes.remove(scope);
    }

    pub fn is_loaded(&self, scope: &[u8]) -> bool {
        let state = self.state.borrow();
        state.scopes.contains_key(scope) || state.step.cleared.contains(scope)
    }

    pub fn get(&self, scope: &[u8], key: &[u8]) -> Option<Vec<u8>> {
        self.state.borrow().get(scope, key).cloned()
    }

    /// Keys and values of the rows of *scope* whose keys begin with *tag*, in order.
    pub fn list(&self, scope: &[u8], tag: u8) -> Vec<(Vec<u8>, Vec<u8>)> {
        let state = self.state.borrow();
        let range = vec![tag]..vec![tag + 1];
        let mut rows = Rows::new();
        if let Some(base) = state.scopes.get(scope).filter(|_| !state.step.cleared.contains(scope)) {
            rows.extend(base.range(range.clone()).map(|(key, value)| (key.clone(), value.clone())));
        }
        for (key, value) in state.step.rows.get(scope).into_iter().flat_map(|written| written.range(range.clone())) {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        rows.into_iter().collect()
    }

    pub fn put(&self, scope: &[u8], key: &[u8], value: Option<Vec<u8>>) -> Result<()> {
        if !self.is_loaded(scope) {
            return Err(StorageError::NotLoaded);
        }
        let mut state = self.state.borrow_mut();
        let is_as_before = state.base(scope, key) == value.as_ref();
        let rows = state.step.rows.entry(scope.to_vec()).or_default();
        if is_as_before {
            rows.remove(key);
        } else {
            rows.insert(key.to_vec(), value);
        }
        Ok(())
    }

    /// Begin *scope* anew: whatever rows it had, loaded or not, are gone.
    pub fn clear(&self, scope: &[u8]) {
        let mut state = self.state.borrow_mut();
        state.step.rows.remove(scope);
        state.step.cleared.insert(scope.to_vec());
    }

    /// Keep what the step wrote.
    pub fn commit(&self) {
        let state = &mut *self.state.borrow_mut();
        let step = std::mem::take(&mut state.step);
        for scope in step.cleared {
            state.scopes.insert(scope.clone(), Rows::new());
            state.kept.rows.remove(&scope);
            state.kept.cleared.insert(scope);
        }
        for (scope, written) in step.rows {
            let Some(rows) = state.scopes.get_mut(&scope) else { continue };
            for (key, value) in &written {
                match value {
                    Some(value) => rows.insert(key.clone(), value.clone()),
                    None => rows.remove(key),
                };
            }
            state.kept.rows.entry(scope).or_default().extend(written);
        }
    }

    /// Forget what the step wrote.
    pub fn roll_back(&self) {
        self.state.borrow_mut().step = Writes::default();
    }

    /// What was kept since the last time.
    pub fn take_deltas(&self) -> Vec<Delta> {
        let kept = std::mem::take(&mut self.state.borrow_mut().kept);
        let buf = |bytes: &[u8]| ByteBuf::from(bytes.to_vec());
        let cleared = kept.cleared.iter().map(|scope| Delta(buf(scope), ByteBuf::new(), None));
        let rows = kept.rows.into_iter().flat_map(|(scope, rows)| {
            rows.into_iter().map(move |(key, value)| Delta(buf(&scope), ByteBuf::from(key), value.map(ByteBuf::from)))
        });
        cleared.chain(rows).collect()
    }

    fn forget_past_except(&self, scope: &[u8], kept: &MessageSecrets) -> Result<()> {
        let kept: BTreeSet<Vec<u8>> = kept.past.iter().map(|(epoch, _)| epoch_key(row::PAST_MESSAGE_SECRETS, *epoch)).collect();
        for (key, _) in self.list(scope, row::PAST_MESSAGE_SECRETS) {
            if !kept.contains(&key) {
                self.put(scope, &key, None)?;
            }
        }
        Ok(())
    }

    fn write(&self, group_id: &impl Serialize, tag: u8, value: &impl Serialize) -> Result<()> {
        self.put(&scope_of(group_id)?, &[tag], Some(encode(value)))
    }

    fn read<T: DeserializeOwned>(&self, group_id: &impl Serialize, tag: u8) -> Result<Option<T>> {
        self.get(&scope_of(group_id)?, &[tag]).map(|value| decode(&value)).transpose()
    }

    fn delete(&self, group_id: &impl Serialize, tag: u8) -> Result<()> {
        self.put(&scope_of(group_id)?, &[tag], None)
    }
}

pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    codec::decode(bytes).map_err(|_| StorageError::Corrupt)
}

/// OpenMLS' group ids and references are structs around structs around one byte string.
fn scope_of(key: &impl Serialize) -> Result<Vec<u8>> {
    let encoded = encode(key);
    let depth = encoded.iter().take_while(|marker| **marker == 0x91).count();
    decode::<ByteBuf>(&encoded[depth..]).map(ByteBuf::into_vec)
}

pub fn epoch_key(tag: u8, epoch: u64) -> Vec<u8> {
    let mut key = vec![tag];
    key.extend_from_slice(&epoch.to_be_bytes());
    key
}

fn key_pairs_key(epoch: &impl Serialize, leaf_index: u32) -> Vec<u8> {
    let mut key = vec![row::EPOCH_KEY_PAIRS];
    key.extend_from_slice(&encode(epoch));
    key.extend_from_slice(&leaf_index.to_be_bytes());
    key
}

fn package_key(reference: &[u8]) -> Vec<u8> {
    [&[row::KEY_PACKAGE], reference].concat()
}

/// Cuts one MessagePack value off the front of *bytes*; returns (it, the rest).
fn cut(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut left = 1usize;
    let mut at = 0usize;
    while left > 0 {
        left -= 1;
        let marker = *bytes.get(at)?;
        at += 1;
        let sized = |width: usize| -> Option<usize> {
            bytes.get(at..at + width).map(|digits| digits.iter().fold(0usize, |sum, digit| sum << 8 | usize::from(*digit)))
        };
        let (skip, values) = match marker {
            0x00..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => (0, 0),
            0x80..=0x8f => (0, 2 * usize::from(marker & 15)),
            0x90..=0x9f => (0, usize::from(marker & 15)),
            0xa0..=0xbf => (usize::from(marker & 31), 0),
            0xc4 | 0xd9 => (1 + sized(1)?, 0),
            0xc5 | 0xda => (2 + sized(2)?, 0),
            0xc6 | 0xdb => (4 + sized(4)?, 0),
            0xcc | 0xd0 => (1, 0),
            0xcd | 0xd1 => (2, 0),
            0xca | 0xce | 0xd2 => (4, 0),
            0xcb | 0xcf | 0xd3 => (8, 0),
            0xdc => (2, sized(2)?),
            0xdd => (4, sized(4)?),
            0xde => (2, 2 * sized(2)?),
            0xdf => (4, 2 * sized(4)?),
            _ => return None,
        };
        at = at.checked_add(skip)?;
        left = left.checked_add(values)?;
    }
    bytes.split_at_checked(at)
}

/// The number of values in the MessagePack array that *bytes* begin with, and what follows its head.
fn array(bytes: &[u8]) -> Option<(usize, &[u8])> {
    match bytes {
        [marker @ 0x90..=0x9f, rest @ ..] => Some((usize::from(marker & 15), rest)),
        [0xdc, high, low, rest @ ..] => Some((usize::from(*high) << 8 | usize::from(*low), rest)),
        _ => None,
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    decode(bytes).ok()
}

/// The parts of OpenMLS' `MessageSecretsStore`: [largest number of past epochs, [[epoch, …], …], secrets of the current epoch].
struct MessageSecrets<'a> {
    limit: &'a [u8],
    past: Vec<(u64, &'a [u8])>,
    current: &'a [u8],
}

impl<'a> MessageSecrets<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (3, rest) = array(bytes)? else { return None };
        let (limit, rest) = cut(rest)?;
        let (count, mut rest) = array(rest)?;
        let mut past = Vec::with_capacity(count);
        for _ in 0..count {
            let (tree, after) = cut(rest)?;
            let (epoch, _) = cut(array(tree)?.1)?;
            past.push((number(epoch)?, tree));
            rest = after;
        }
        let (current, rest) = cut(rest)?;
        rest.is_empty().then_some(Self { limit, past, current })
    }

    fn join(head: &[u8], past: &[(Vec<u8>, Vec<u8>)]) -> Option<Vec<u8>> {
        let (2, rest) = array(head)? else { return None };
        let (limit, current) = cut(rest)?;
        let count = u16::try_from(past.len()).ok()?;
        let mut bytes = vec![0x93];
        bytes.extend_from_slice(limit);
        bytes.push(0xdc);
        bytes.extend_from_slice(&count.to_be_bytes());
        past.iter().for_each(|(_, tree)| bytes.extend_from_slice(tree));
        bytes.extend_from_slice(current);
        Some(bytes)
    }
}

/// Writers, readers and deleters of the records that a group has one of.
macro_rules! one_for_each_group {
    ($($tag:ident: $write:ident, $read:ident, $delete:ident, $entity:ident;)*) => {$(
        fn $write<G: traits::GroupId<V>, T: traits::$entity<V>>(&self, group_id: &G, value: &T) -> Result<()> {
            self.write(group_id, row::$tag, value)
        }
        fn $read<G: traits::GroupId<V>, T: traits::$entity<V>>(&self, group_id: &G) -> Result<Option<T>> {
            self.read(group_id, row::$tag)
        }
        fn $delete<G: traits::GroupId<V>>(&self, group_id: &G) -> Result<()> {
            self.delete(group_id, row::$tag)
        }
    )*};
}

impl StorageProvider<V> for Storage {
    type Error = StorageError;

    one_for_each_group! {
        JOIN_CONFIG: write_mls_join_config, mls_group_join_config, delete_group_config, MlsGroupJoinConfig;
        TREE: write_tree, tree, delete_tree, TreeSync;
        INTERIM_TRANSCRIPT_HASH: write_interim_transcript_hash, interim_transcript_hash, delete_interim_transcript_hash, InterimTranscriptHash;
        GROUP_CONTEXT: write_context, group_context, delete_context, GroupContext;
        CONFIRMATION_TAG: write_confirmation_tag, confirmation_tag, delete_confirmation_tag, ConfirmationTag;
        RESUMPTION_PSKS: write_resumption_psk_store, resumption_psk_store, delete_all_resumption_psk_secrets, ResumptionPskStore;
        OWN_LEAF_INDEX: write_own_leaf_index, own_leaf_index, delete_own_leaf_index, LeafNodeIndex;
        EPOCH_SECRETS: write_group_epoch_secrets, group_epoch_secrets, delete_group_epoch_secrets, GroupEpochSecrets;
    }

    fn write_group_state<T: traits::GroupState<V>, G: traits::GroupId<V>>(&self, group_id: &G, value: &T) -> Result<()> {
        self.write(group_id, row::GROUP_STATE, value)
    }
    fn group_state<T: traits::GroupState<V>, G: traits::GroupId<V>>(&self, group_id: &G) -> Result<Option<T>> {
        self.read(group_id, row::GROUP_STATE)
    }
    fn delete_group_state<G: traits::GroupId<V>>(&self, group_id: &G) -> Result<()> {
        self.delete(group_id, row::GROUP_STATE)
    }

    fn write_message_secrets<G: traits::GroupId<V>, T: traits::MessageSecrets<V>>(&self, group_id: &G, value: &T) -> Result<()> {
        let scope = scope_of(group_id)?;
        let touched = self.touched.get();
        let bytes = touched.map_or_else(|| encode(value), |epoch| codec::encode_only(value, epoch));
        let parts = MessageSecrets::parse(&bytes).ok_or(StorageError::Corrupt)?;
        if touched.is_none() {
            self.forget_past_except(&scope, &parts)?;
        }
        for (epoch, tree) in parts.past.iter().filter(|(epoch, _)| touched.is_none_or(|touched| touched == *epoch)) {
            self.put(&scope, &epoch_key(row::PAST_MESSAGE_SECRETS, *epoch), Some(tree.to_vec()))?;
        }
        self.put(&scope, &[row::MESSAGE_SECRETS], Some([&[0x92], parts.limit, parts.current].concat()))
    }
    fn message_secrets<G: traits::GroupId<V>, T: traits::MessageSecrets<V>>(&self, group_id: &G) -> Result<Option<T>> {
        let scope = scope_of(group_id)?;
        let Some(head) = self.get(&scope, &[row::MESSAGE_SECRETS]) else { return Ok(None) };
        let past = self.list(&scope, row::PAST_MESSAGE_SECRETS);
        decode(&MessageSecrets::join(&head, &past).ok_or(StorageError::Corrupt)?).map(Some)
    }
    fn delete_message_secrets<G: traits::GroupId<V>>(&self, group_id: &G) -> Result<()> {
        let scope = scope_of(group_id)?;
        for (key, _) in self.list(&scope, row::PAST_MESSAGE_SECRETS) {
            self.put(&scope, &key, None)?;
        }
        self.put(&scope, &[row::MESSAGE_SECRETS], None)
    }

    fn write_encryption_epoch_key_pairs<G: traits::GroupId<V>, E: traits::EpochKey<V>, T: traits::HpkeKeyPair<V>>(
        &self,
        group_id: &G,
        epoch: &E,
        leaf_index: u32,
        key_pairs: &[T],
    ) -> Result<()> {
        self.put(&scope_of(group_id)?, &key_pairs_key(epoch, leaf_index), Some(encode(&key_pairs)))
    }
    fn encryption_epoch_key_pairs<G: traits::GroupId<V>, E: traits::EpochKey<V>, T: traits::HpkeKeyPair<V>>(
        &self,
        group_id: &G,
        epoch: &E,
        leaf_index: u32,
    ) -> Result<Vec<T>> {
        let value = self.get(&scope_of(group_id)?, &key_pairs_key(epoch, leaf_index));
        value.map_or(Ok(Vec::new()), |value| decode(&value))
    }
    fn delete_encryption_epoch_key_pairs<G: traits::GroupId<V>, E: traits::EpochKey<V>>(
        &self,
        group_id: &G,
        epoch: &E,
        leaf_index: u32,
    ) -> Result<()> {
        self.put(&scope_of(group_id)?, &key_pairs_key(epoch, leaf_index), None)
    }

    fn write_key_package<R: traits::HashReference<V>, T: traits::KeyPackage<V>>(&self, reference: &R, value: &T) -> Result<()> {
        self.put(PACKAGES, &package_key(&scope_of(reference)?), Some(encode(value)))
    }
    fn key_package<R: traits::HashReference<V>, T: traits::KeyPackage<V>>(&self, reference: &R) -> Result<Option<T>> {
        self.get(PACKAGES, &package_key(&scope_of(reference)?)).map(|value| decode(&value)).transpose()
    }
    fn delete_key_package<R: traits::HashReference<V>>(&self, reference: &R) -> Result<()> {
        self.put(PACKAGES, &package_key(&scope_of(reference)?), None)
    }

    // Standalone proposals and Updates by proposal are refused, so there is never anything of these.

    fn append_own_leaf_node<G: traits::GroupId<V>, T: traits::LeafNode<V>>(&self, _: &G, _: &T) -> Result<()> {
        Err(StorageError::Unsupported)
    }
    fn own_leaf_nodes<G: traits::GroupId<V>, T: traits::LeafNode<V>>(&self, _: &G) -> Result<Vec<T>> {
        Ok(Vec::new())
    }
    fn delete_own_leaf_nodes<G: traits::GroupId<V>>(&self, _: &G) -> Result<()> {
        Ok(())
    }
    fn queue_proposal<G: traits::GroupId<V>, R: traits::ProposalRef<V>, T: traits::QueuedProposal<V>>(
        &self,
        _: &G,
        _: &R,
        _: &T,
    ) -> Result<()> {
        Err(StorageError::Unsupported)
    }
    fn queued_proposal_refs<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(&self, _: &G) -> Result<Vec<R>> {
        Ok(Vec::new())
    }
    fn queued_proposals<G: traits::GroupId<V>, R: traits::ProposalRef<V>, T: traits::QueuedProposal<V>>(
        &self,
        _: &G,
    ) -> Result<Vec<(R, T)>> {
        Ok(Vec::new())
    }
    fn remove_proposal<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(&self, _: &G, _: &R) -> Result<()> {
        Ok(())
    }
    fn clear_proposal_queue<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(&self, _: &G) -> Result<()> {
        Ok(())
    }
    fn write_encryption_key_pair<K: traits::EncryptionKey<V>, T: traits::HpkeKeyPair<V>>(&self, _: &K, _: &T) -> Result<()> {
        Err(StorageError::Unsupported)
    }
    fn encryption_key_pair<T: traits::HpkeKeyPair<V>, K: traits::EncryptionKey<V>>(&self, _: &K) -> Result<Option<T>> {
        Ok(None)
    }
    fn delete_encryption_key_pair<K: traits::EncryptionKey<V>>(&self, _: &K) -> Result<()> {
        Ok(())
    }

    // Signature keys are the device's (identity.rs); pre-shared keys are not used.

    fn write_signature_key_pair<K: traits::SignaturePublicKey<V>, T: traits::SignatureKeyPair<V>>(&self, _: &K, _: &T) -> Result<()> {
        Err(StorageError::Unsupported)
    }
    fn signature_key_pair<K: traits::SignaturePublicKey<V>, T: traits::SignatureKeyPair<V>>(&self, _: &K) -> Result<Option<T>> {
        Ok(None)
    }
    fn delete_signature_key_pair<K: traits::SignaturePublicKey<V>>(&self, _: &K) -> Result<()> {
        Ok(())
    }
    fn write_psk<K: traits::PskId<V>, T: traits::PskBundle<V>>(&self, _: &K, _: &T) -> Result<()> {
        Err(StorageError::Unsupported)
    }
    fn psk<T: traits::PskBundle<V>, K: traits::PskId<V>>(&self, _: &K) -> Result<Option<T>> {
        Ok(None)
    }
    fn delete_psk<K: traits::PskId<V>>(&self, _: &K) -> Result<()> {
        Ok(())
    }
}
