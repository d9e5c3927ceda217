//! Chats as MLS groups through OpenMLS: found, join, commit by gates, protect, receive, rejoin.
//!
//! For each epoch its seal key, gate key and gate names are exported once and kept in a row. A commit is staged (pending, with
//! its exact gate value), and then confirmed, dropped, or replaced by whatever the gate holds. Nothing here depends
//! on a wall clock, except what the adder checks. Source: docs/protocol/groups.md.

use openmls::prelude::{
    ApplyUpdatePathError, Ciphersuite, ContentType, CredentialWithKey, GroupId, KeyPackage, KeyPackageIn, LeafNode, LeafNodeIndex,
    LeafNodeParameters, Lifetime, MlsGroup, MlsGroupJoinConfig, MlsMessageBodyIn, MlsMessageIn, MlsMessageOut,
    PastEpochDeletion, ProcessMessageError, ProcessedMessageContent, ProposalValidationError, ProtocolMessage, ProtocolVersion, Sender,
    SenderRatchetConfiguration, StageCommitError, StagedCommit, StagedWelcome, ValidationError, Welcome, WelcomeError,
};
use openmls::{framing::errors::MessageDecryptionError, prelude::OpenMlsProvider as _};
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteBuf, Bytes};
use std::collections::BTreeMap;
use tls_codec::DeserializeBytes as _;

use crate::{
    clock,
    envelope::{self, GateValue, MAX_BODY_BYTES, TAG_COMMIT, TAG_LOOK_AT_GATE, TAG_MESSAGE, TAG_REJOIN, TAG_WELCOME},
    error::{Error, Kind, Result, by},
    identity::{Bytes32, Certificate, Identity, OwnDevice, buf, fixed},
    provider::{CLASSIC, HYBRID, Provider, ed25519_verify, open_from_stranger, random, seal_to_stranger},
    rules::{self, Change, ChatContext, ContextFields, Leaf},
    storage::{PACKAGES, StorageError, decode, encode, epoch_key, row},
};

const GATES: u8 = 16;
const GATE_NAME_BYTES: usize = 32;
const SEAL_LABEL: &str = "taube seal";
const GATE_LABEL: &str = "taube gate";
const GATE_KEY_LABEL: &str = "taube gate key";
const KEY_BYTES: usize = 16;
const RESERVED_LABELS: &str = "taube ";

const DAY_S: u64 = 24 * 3600;
const PACKAGE_LIFETIME_S: u64 = 84 * DAY_S;
const CLOCK_MARGIN_S: u64 = 3600;
const MIN_PACKAGE_LEFT_S: u64 = 50 * DAY_S;
const MIN_PAST_EPOCHS: usize = 8;
const MAX_PAST_EPOCHS: usize = 64;
const PAST_EPOCH_S: u64 = 7 * DAY_S;
const OUT_OF_ORDER_TOLERANCE: u32 = 128;
const MAX_FORWARD_DISTANCE: u32 = 4096;
const REJOIN_LABEL: &[u8] = b"taube rejoin v1";
const MAX_REQUEST_AGE_S: u64 = 30 * DAY_S;
/// Beyond this a gate value's time is nonsense (year 4000) and would overflow what a clock can hold.
const MAX_TIME_S: u64 = 64_060_588_800;

/// Account id -> the lowest counter of its device list that is still acceptable.
pub type Known = BTreeMap<ByteBuf, u64>;
pub type Pair = (ByteBuf, ByteBuf);

fn pair(identity: &Identity) -> Pair {
    (buf(&identity.account), buf(&identity.device))
}

fn identity(pair: &Pair) -> Result<Identity> {
    Ok(Identity { account: fixed(&pair.0, "account id")?, device: fixed(&pair.1, "device id")? })
}

fn suite(number: u16) -> Result<Ciphersuite> {
    match Ciphersuite::try_from(number) {
        Ok(suite) if suite == CLASSIC || suite == HYBRID => Ok(suite),
        _ => Err(Kind::Malformed.because("an unknown suite")),
    }
}

fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .max_past_epochs(MAX_PAST_EPOCHS)
        .sender_ratchet_configuration(SenderRatchetConfiguration::new(OUT_OF_ORDER_TOLERANCE, MAX_FORWARD_DISTANCE))
        .use_ratchet_tree_extension(true)
        .build()
}

/// From the day of its making: whoever holds a package shall not learn when its device was awake.
fn lifetime(now_s: u64) -> Lifetime {
    let day_s = now_s - now_s % DAY_S;
    Lifetime::init(day_s.saturating_sub(CLOCK_MARGIN_S), day_s.saturating_add(PACKAGE_LIFETIME_S))
}

/// The identity that our leaves show, checked against the certificate that they carry.
fn own_credential(device: &OwnDevice, certificate: &[u8]) -> Result<(Identity, CredentialWithKey)> {
    let certificate = Certificate::verify(certificate)?;
    let identity = Identity { account: certificate.account, device: device.id };
    certificate.proves(&identity, &device.mls_key())?;
    Ok((identity, CredentialWithKey { credential: identity.credential(), signature_key: device.mls_key().to_vec().into() }))
}

fn is_outdated(known: &Known, leaf: &Leaf) -> bool {
    known.get(Bytes::new(&leaf.identity.account)).is_some_and(|lowest| leaf.counter < *lowest)
}

// -- key packages -----------------------------------------------------------------------------------------------------

pub type KeyPackageFields = (ByteBuf, ByteBuf, u16, ByteBuf, u64);

pub fn create_key_packages(
    provider: &Provider,
    suite_number: u16,
    addresses: &[ByteBuf],
    certificate: &[u8],
    now_s: u64,
    last_resort: bool,
) -> Result<Vec<(ByteBuf, ByteBuf)>> {
    let suite = suite(suite_number)?;
    let device = OwnDevice::load(&provider.storage)?;
    let (_, credential) = own_credential(&device, certificate)?;
    let mut packages = Vec::with_capacity(addresses.len());
    for address in addresses {
        let mut builder = KeyPackage::builder()
            .key_package_lifetime(lifetime(now_s))
            .leaf_node_capabilities(rules::capabilities())
            .leaf_node_extensions(rules::leaf_extensions(address, certificate)?);
        if last_resort {
            builder = builder.mark_as_last_resort();
        }
        let bundle = builder.build(suite, provider, &device, credential.clone()).map_err(|error| {
            if provider.storage.is_loaded(PACKAGES) { Kind::Internal.because(error.to_string()) } else { StorageError::NotLoaded.into() }
        })?;
        let package = bundle.key_package();
        let reference = package.hash_ref(provider.crypto()).map_err(by(Kind::Internal))?;
        let bytes = MlsMessageOut::from(package.clone()).to_bytes().map_err(by(Kind::Internal))?;
        packages.push((buf(reference.as_slice()), ByteBuf::from(bytes)));
    }
    Ok(packages)
}

pub fn delete_key_packages(provider: &Provider, references: &[ByteBuf]) -> Result<()> {
    for reference in references {
        provider.storage.put(PACKAGES, &[&[row::KEY_PACKAGE], &reference[..]].concat(), None)?;
    }
    Ok(())
}

/// A key package that someone gave us, its signatures and its leaf's certificate verified, fit to be added now.
struct CheckedPackage {
    package: KeyPackage,
    leaf: Leaf,
    hpke_key: Bytes32,
    expires_at_s: u64,
}

fn check_package(provider: &Provider, bytes: &[u8], now_s: u64) -> Result<CheckedPackage> {
    clock::set(now_s);
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bytes).map_err(|_| Kind::Malformed.because("not a key package"))?;
    let MlsMessageBodyIn::KeyPackage(package) = message.extract() else {
        return Err(Kind::Malformed.because("another MLS message than a key package"));
    };
    let package: KeyPackage = KeyPackageIn::validate(package, provider.crypto(), ProtocolVersion::Mls10).map_err(|error| {
        use openmls::prelude::KeyPackageVerifyError as E;
        let kind = if matches!(error, E::LifetimeError(_)) { Kind::Expired } else { Kind::Unverified };
        kind.because(error.to_string())
    })?;
    let lifetime = package.life_time();
    let expires_at_s = lifetime.not_after();
    if !lifetime.has_acceptable_range() {
        return Err(Kind::Unverified.because("a key package that lives too long"));
    }
    if expires_at_s < now_s.saturating_add(MIN_PACKAGE_LEFT_S) {
        return Err(Kind::Expired.because("the key package has less than 50 days left"));
    }
    suite(package.ciphersuite().into())?;
    let (leaf, certificate) = Leaf::verify(package.leaf_node())?;
    let hpke_key = certificate.proves(&leaf.identity, package.leaf_node().signature_key().as_slice())?.hpke_key;
    Ok(CheckedPackage { package, leaf, hpke_key, expires_at_s })
}

/// The package's leaf against a certificate that was fetched beside it: the same account, not older than the leaf's own, and still
/// naming the device with the same keys.
fn check_against_newest(checked: &CheckedPackage, newest: &Certificate) -> Result<()> {
    let device = newest.proves(&checked.leaf.identity, checked.package.leaf_node().signature_key().as_slice())?;
    if device.hpke_key != checked.hpke_key {
        return Err(Kind::Unverified.because("the device list names another HPKE key"));
    }
    if newest.counter < checked.leaf.counter {
        return Err(Kind::CounterOutdated.because("the key package's device list is newer than the certificate"));
    }
    Ok(())
}

pub fn inspect_key_package(provider: &Provider, package: &[u8], certificate: &[u8], now_s: u64) -> Result<KeyPackageFields> {
    let newest = Certificate::verify(certificate)?;
    let checked = check_package(provider, package, now_s)?;
    check_against_newest(&checked, &newest)?;
    let (account, device) = pair(&checked.leaf.identity);
    let suite = checked.package.ciphersuite().into();
    Ok((account, device, suite, ByteBuf::from(checked.leaf.address), checked.expires_at_s))
}

// -- epochs' keys ------------------------------------------------------------------------------------------------------

/// What is exported from an epoch once. Times are the host's, in seconds; an epoch that has not ended ended at 0.
#[derive(Serialize, Deserialize)]
struct EpochKeys {
    seal_key: ByteBuf,
    gate_key: ByteBuf,
    gate_names: ByteBuf,
    began_at_s: u64,
    ended_at_s: u64,
}

impl EpochKeys {
    fn export(provider: &Provider, group: &MlsGroup, now_s: u64) -> Result<Self> {
        let export = |label: &str, context: &[u8], length: usize| {
            group.export_secret(provider.crypto(), label, context, length).map_err(by(Kind::Internal))
        };
        let mut gate_names = Vec::with_capacity(usize::from(GATES) * GATE_NAME_BYTES);
        for k in 0..GATES {
            gate_names.extend(export(GATE_LABEL, &[k], GATE_NAME_BYTES)?);
        }
        Ok(Self {
            seal_key: ByteBuf::from(export(SEAL_LABEL, b"", KEY_BYTES)?),
            gate_key: ByteBuf::from(export(GATE_KEY_LABEL, b"", KEY_BYTES)?),
            gate_names: ByteBuf::from(gate_names),
            began_at_s: now_s,
            ended_at_s: 0,
        })
    }

    fn load(provider: &Provider, group_id: &[u8], epoch: u64) -> Result<Self> {
        let row = provider.storage.get(group_id, &epoch_key(row::EPOCH_KEYS, epoch));
        Ok(decode(&row.ok_or_else(|| Kind::WrongEpoch.because("the keys of that epoch are not kept"))?)?)
    }

    fn store(&self, provider: &Provider, group_id: &[u8], epoch: u64) -> Result<()> {
        Ok(provider.storage.put(group_id, &epoch_key(row::EPOCH_KEYS, epoch), Some(encode(self)))?)
    }

    fn gate_name(&self, k: u8) -> Result<&[u8]> {
        let at = usize::from(k) * GATE_NAME_BYTES;
        self.gate_names.get(at..at + GATE_NAME_BYTES).ok_or_else(|| Kind::WrongEpoch.because("an epoch has gates 0 to 15"))
    }
}

pub fn gate_name(provider: &Provider, group_id: &[u8], epoch: u64, k: u8) -> Result<ByteBuf> {
    Ok(buf(EpochKeys::load(provider, group_id, epoch)?.gate_name(k)?))
}

pub fn current_epoch(group: &MlsGroup) -> u64 {
    group.epoch().as_u64()
}

fn refuse_if_evicted(group: &MlsGroup) -> Result<()> {
    if group.is_active() { Ok(()) } else { Err(Kind::Evicted.because("this device was removed from the group")) }
}

// -- members -----------------------------------------------------------------------------------------------------------

pub type MemberFields = (ByteBuf, ByteBuf, ByteBuf, ByteBuf, u64, u32);

fn member(index: LeafNodeIndex, leaf: &Leaf) -> MemberFields {
    let (account, device) = pair(&leaf.identity);
    (account, device, buf(&leaf.address), buf(&leaf.certificate), leaf.counter, index.u32())
}

fn members(group: &MlsGroup) -> Result<Vec<MemberFields>> {
    Ok(rules::leaves(group)?.iter().map(|(index, leaf)| member(*index, leaf)).collect())
}

fn find(group: &MlsGroup, wanted: &Identity) -> Result<(LeafNodeIndex, Leaf)> {
    let mut leaves = rules::leaves(group)?.into_iter();
    leaves.find(|(_, leaf)| leaf.identity == *wanted).ok_or_else(|| Kind::PolicyRefused.because("no such device in the group"))
}

/// group id, epoch, suite, context, members, whether a commit is pending, own leaf.
pub type InfoFields = (ByteBuf, u64, u16, ContextFields, Vec<MemberFields>, bool, u32);

pub fn info(group: &MlsGroup) -> Result<InfoFields> {
    Ok((
        buf(group.group_id().as_slice()),
        current_epoch(group),
        group.ciphersuite().into(),
        ChatContext::of(group.extensions())?.fields(),
        members(group)?,
        group.pending_commit().is_some(),
        group.own_leaf_index().u32(),
    ))
}

// -- founding and joining ------------------------------------------------------------------------------------------------

pub fn create(
    provider: &Provider,
    suite_number: u16,
    context: &ContextFields,
    address: &[u8],
    certificate: &[u8],
    now_s: u64,
) -> Result<MlsGroup> {
    let context = ChatContext::from_fields(context)?;
    let device = OwnDevice::load(&provider.storage)?;
    let (own, credential) = own_credential(&device, certificate)?;
    if !context.is_admin(&own.account) {
        return Err(Kind::PolicyRefused.because("whoever founds a chat is one of its admins"));
    }
    let id = random::<32>();
    provider.storage.clear(&id);
    let group = MlsGroup::builder()
        .with_group_id(GroupId::from_slice(&id))
        .ciphersuite(suite(suite_number)?)
        .lifetime(lifetime(now_s))
        .max_past_epochs(MAX_PAST_EPOCHS)
        .sender_ratchet_configuration(SenderRatchetConfiguration::new(OUT_OF_ORDER_TOLERANCE, MAX_FORWARD_DISTANCE))
        .use_ratchet_tree_extension(true)
        .with_capabilities(rules::capabilities())
        .with_group_context_extensions(context.extensions()?)
        .with_leaf_node_extensions(rules::leaf_extensions(address, certificate)?)
        .map_err(by(Kind::Internal))?
        .build(provider, &device, credential)
        .map_err(by(Kind::Internal))?;
    EpochKeys::export(provider, &group, now_s)?.store(provider, &id, current_epoch(&group))?;
    Ok(group)
}

/// group id, epoch, suite, context, members, sender, reference of our key package.
pub type JoinedFields = (ByteBuf, u64, u16, ContextFields, Vec<MemberFields>, Pair, ByteBuf);

pub fn join(provider: &Provider, body: &[u8], known: &Known, now_s: u64) -> Result<(MlsGroup, JoinedFields)> {
    let device = OwnDevice::load(&provider.storage)?;
    if !provider.storage.is_loaded(PACKAGES) {
        return Err(StorageError::NotLoaded.into());
    }
    let (tag, payload) = open_stranger_body(&device, body)?;
    if tag != TAG_WELCOME {
        return Err(Kind::Malformed.because("not a Welcome"));
    }
    let welcome = read_welcome(&payload)?;
    let reference = own_reference(provider, &welcome)?;
    let staged = StagedWelcome::build_from_welcome(provider, &join_config(), welcome)
        .map_err(welcome_error)?
        .skip_lifetime_validation()
        .replace_old_group()
        .build()
        .map_err(welcome_error)?;
    let group_id: Bytes32 = fixed(staged.group_context().group_id().as_slice(), "group id")?;
    let context = ChatContext::of(staged.group_context().extensions())?;
    let sender = Identity::of(staged.welcome_sender().map_err(by(Kind::Unverified))?.credential())?;
    provider.storage.clear(&group_id);
    let group = staged.into_group(provider).map_err(welcome_error)?;
    let leaves = rules::check_tree(&context, group.treesync().full_leaves().map(|(_, node)| node))?;
    let own = Identity::of(group.own_leaf().ok_or_else(|| Kind::Unverified.because("no leaf of our own"))?.credential())?;
    if own.device != device.id || (context.kind == rules::KIND_PAIR && !context.is_admin(&own.account)) {
        return Err(Kind::PolicyRefused.because("the leaf is another device's, or the chat is not ours"));
    }
    if leaves.iter().any(|leaf| leaf.identity != own && is_outdated(known, leaf)) {
        return Err(Kind::CounterOutdated.because("a member's device list is older than one that is known"));
    }
    EpochKeys::export(provider, &group, now_s)?.store(provider, &group_id, current_epoch(&group))?;
    let (id, epoch, suite, fields, members, _, _) = info(&group)?;
    Ok((group, (id, epoch, suite, fields, members, pair(&sender), reference)))
}

fn read_welcome(payload: &[u8]) -> Result<Welcome> {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(payload).map_err(|_| Kind::Malformed.because("not an MLS message"))?;
    match message.extract() {
        MlsMessageBodyIn::Welcome(welcome) => Ok(welcome),
        _ => Err(Kind::Malformed.because("another MLS message than a Welcome")),
    }
}

fn own_reference(provider: &Provider, welcome: &Welcome) -> Result<ByteBuf> {
    let mut references = welcome.secrets().iter().map(|secrets| buf(secrets.new_member().as_slice()));
    references
        .find(|reference| provider.storage.get(PACKAGES, &[&[row::KEY_PACKAGE], &reference[..]].concat()).is_some())
        .ok_or_else(|| Kind::NoKeyPackage.because("the Welcome is for none of our key packages"))
}

fn welcome_error(error: WelcomeError<StorageError>) -> Error {
    let kind = match &error {
        WelcomeError::NoMatchingKeyPackage | WelcomeError::JoinerSecretNotFound => Kind::NoKeyPackage,
        WelcomeError::StorageError(_) | WelcomeError::LibraryError(_) => Kind::Internal,
        _ => Kind::Unverified,
    };
    kind.because(error.to_string())
}

// -- committing ----------------------------------------------------------------------------------------------------------

/// A commit that waits for its gate: everything needed to claim again with the same bytes and to finish afterwards.
#[derive(Serialize, Deserialize)]
struct Pending {
    k: u8,
    commit: ByteBuf,
    welcomes: Vec<(ByteBuf, ByteBuf)>,
    time_s: u64,
    gate_value: ByteBuf,
}

pub struct Wanted {
    pub adds: Vec<ByteBuf>,
    pub removes: Vec<Pair>,
    pub update: bool,
    pub address: Option<ByteBuf>,
    pub certificate: Option<ByteBuf>,
    pub context: Option<ContextFields>,
}

/// epoch, k, gate name, gate value, commit body, Welcomes.
pub type StagedFields = (u64, u8, ByteBuf, ByteBuf, ByteBuf, Vec<(ByteBuf, ByteBuf)>);

pub fn stage(provider: &Provider, group: &mut MlsGroup, k: u8, wanted: &Wanted, known: &Known, now_s: u64) -> Result<StagedFields> {
    refuse_if_evicted(group)?;
    if group.pending_commit().is_some() {
        return Err(Kind::CommitPending.because("a commit is pending"));
    }
    let device = OwnDevice::load(&provider.storage)?;
    let mut packages = Vec::with_capacity(wanted.adds.len());
    for bytes in &wanted.adds {
        let checked = check_package(provider, bytes, now_s)?;
        if is_outdated(known, &checked.leaf) {
            return Err(Kind::CounterOutdated.because("the key package's device list is older than one that is known"));
        }
        packages.push(checked);
    }
    let mut removed = Vec::with_capacity(wanted.removes.len());
    for device in &wanted.removes {
        removed.push(find(group, &identity(device)?)?.0);
    }
    let leaf_parameters = new_leaf(group, &device, wanted)?;
    let mut builder = group
        .commit_builder()
        .consume_proposal_store(false)
        .propose_removals(removed)
        .propose_adds(packages.iter().map(|checked| checked.package.clone()))
        .force_self_update(leaf_parameters.is_some())
        .leaf_node_parameters(leaf_parameters.unwrap_or_default());
    if let Some(context) = &wanted.context {
        let extensions = ChatContext::from_fields(context)?.extensions()?;
        builder = builder.propose_group_context_extensions(extensions).map_err(by(Kind::PolicyRefused))?;
    }
    let bundle = builder
        .load_psks(&provider.storage)
        .map_err(by(Kind::Internal))?
        .build(provider.rand(), provider.crypto(), &device, |_| true)
        .map_err(by(Kind::PolicyRefused))?
        .stage_commit(provider)
        .map_err(by(Kind::Internal))?;
    let commit = ByteBuf::from(bundle.commit().to_bytes().map_err(by(Kind::Internal))?);
    let welcomes = match bundle.to_welcome_msg() {
        Some(welcome) => seal_welcomes(&welcome.to_bytes().map_err(by(Kind::Internal))?, &packages)?,
        None => Vec::new(),
    };
    judge_pending(group)?;
    let pending = Pending { k, commit, welcomes, time_s: now_s, gate_value: ByteBuf::new() };
    seal_pending(provider, group, pending)
}

/// The leaf that our commit puts in place, if it is to change.
fn new_leaf(group: &MlsGroup, device: &OwnDevice, wanted: &Wanted) -> Result<Option<LeafNodeParameters>> {
    if !wanted.update && wanted.address.is_none() && wanted.certificate.is_none() {
        return Ok(None);
    }
    let node = group.own_leaf().ok_or_else(|| Kind::Internal.because("no leaf of our own"))?;
    let own = Leaf::read(node)?;
    let address = wanted.address.as_ref().map_or(&own.address[..], |address| &address[..]);
    let certificate = wanted.certificate.as_ref().map_or(&own.certificate[..], |certificate| &certificate[..]);
    own_credential(device, certificate)?;
    let parameters = LeafNodeParameters::builder()
        .with_capabilities(rules::capabilities())
        .with_extensions(rules::leaf_extensions(address, certificate)?)
        .build();
    Ok(Some(parameters))
}

fn seal_welcomes(welcome: &[u8], packages: &[CheckedPackage]) -> Result<Vec<(ByteBuf, ByteBuf)>> {
    packages.iter().map(|checked| Ok((buf(&checked.leaf.address), seal_stranger_body(&checked.hpke_key, TAG_WELCOME, welcome)?))).collect()
}

/// What others will judge our commit by.
fn judge_pending(group: &MlsGroup) -> Result<Change> {
    let staged = group.pending_commit().ok_or_else(|| Kind::NothingPending.because("no commit is pending"))?;
    rules::judge(group, &Sender::Member(group.own_leaf_index()), staged)
}

fn load_pending(provider: &Provider, group: &MlsGroup) -> Result<Pending> {
    let row = provider.storage.get(group.group_id().as_slice(), &[row::PENDING]);
    match row {
        Some(row) if group.pending_commit().is_some() => Ok(decode(&row)?),
        _ => Err(Kind::NothingPending.because("no commit is pending")),
    }
}

fn seal_pending(provider: &Provider, group: &MlsGroup, mut pending: Pending) -> Result<StagedFields> {
    let (group_id, epoch) = (group.group_id().as_slice(), current_epoch(group));
    let keys = EpochKeys::load(provider, group_id, epoch)?;
    let name = keys.gate_name(pending.k)?;
    let value = GateValue { commit: pending.commit.clone(), welcomes: pending.welcomes.clone(), time_s: pending.time_s };
    pending.gate_value = ByteBuf::from(value.seal(&keys.gate_key, name)?);
    let commit_body = envelope::seal_commit_body(&keys.seal_key, pending.k, &pending.gate_value)?;
    provider.storage.put(group_id, &[row::PENDING], Some(encode(&pending)))?;
    Ok((epoch, pending.k, buf(name), pending.gate_value, ByteBuf::from(commit_body), pending.welcomes))
}

pub fn restage(provider: &Provider, group: &MlsGroup, k: u8) -> Result<StagedFields> {
    let mut pending = load_pending(provider, group)?;
    pending.k = k;
    seal_pending(provider, group, pending)
}

pub fn drop_pending(provider: &Provider, group: &mut MlsGroup) -> Result<()> {
    group.clear_pending_commit(&provider.storage)?;
    Ok(provider.storage.put(group.group_id().as_slice(), &[row::PENDING], None)?)
}

/// verdict, epoch, committer, added, removed, updated, context, commit body, Welcomes, outdated.
#[derive(Serialize)]
pub struct AppliedFields {
    verdict: &'static str,
    epoch: u64,
    committer: Option<Pair>,
    added: Vec<MemberFields>,
    removed: Vec<Pair>,
    updated: Vec<MemberFields>,
    context: Option<ContextFields>,
    commit_body: ByteBuf,
    welcomes: Vec<(ByteBuf, ByteBuf)>,
    outdated: Vec<Pair>,
}

impl AppliedFields {
    /// Whether the group moved on; if not, its live state may hold traces of what was refused.
    pub fn changed_state(&self) -> bool {
        matches!(self.verdict, "applied" | "removed")
    }
}

fn not_applied(verdict: &'static str, group: &MlsGroup) -> AppliedFields {
    AppliedFields {
        verdict,
        epoch: current_epoch(group),
        committer: None,
        added: vec![],
        removed: vec![],
        updated: vec![],
        context: None,
        commit_body: ByteBuf::new(),
        welcomes: vec![],
        outdated: vec![],
    }
}

pub fn confirm(provider: &Provider, group: &mut MlsGroup, known: &Known, now_s: u64) -> Result<AppliedFields> {
    let pending = load_pending(provider, group)?;
    let change = judge_pending(group)?;
    let keys = EpochKeys::load(provider, group.group_id().as_slice(), current_epoch(group))?;
    let commit_body = envelope::seal_commit_body(&keys.seal_key, pending.k, &pending.gate_value)?;
    clock::set(now_s);
    group.merge_pending_commit(provider).map_err(by(Kind::Internal))?;
    finish(provider, group, change, commit_body, pending.welcomes, known, now_s)
}

/// After a merge: keys of the new epoch, what is past thrown away, and what happened in the host's words.
fn finish(
    provider: &Provider,
    group: &mut MlsGroup,
    change: Change,
    commit_body: Vec<u8>,
    welcomes: Vec<(ByteBuf, ByteBuf)>,
    known: &Known,
    now_s: u64,
) -> Result<AppliedFields> {
    let group_id = group.group_id().as_slice().to_vec();
    provider.storage.put(&group_id, &[row::PENDING], None)?;
    let mut applied = AppliedFields {
        verdict: if group.is_active() { "applied" } else { "removed" },
        committer: Some(pair(&change.committer)),
        removed: change.removed.iter().map(pair).collect(),
        context: change.context.map(|context| context.fields()),
        commit_body: ByteBuf::from(commit_body),
        welcomes,
        ..not_applied("", group)
    };
    if !group.is_active() {
        return Ok(applied);
    }
    begin_epoch(provider, group, now_s)?;
    for (index, leaf) in rules::leaves(group)? {
        let is_new = change.added.contains(&leaf.identity);
        if is_new {
            applied.added.push(member(index, &leaf));
        } else if change.updated == Some(leaf.identity) {
            applied.updated.push(member(index, &leaf));
        }
        if (is_new || change.updated == Some(leaf.identity)) && is_outdated(known, &leaf) {
            applied.outdated.push(pair(&leaf.identity));
        }
    }
    Ok(applied)
}

fn begin_epoch(provider: &Provider, group: &mut MlsGroup, now_s: u64) -> Result<()> {
    let group_id = group.group_id().as_slice().to_vec();
    let epoch = current_epoch(group);
    if let Ok(mut last) = EpochKeys::load(provider, &group_id, epoch - 1) {
        last.ended_at_s = now_s;
        last.store(provider, &group_id, epoch - 1)?;
    }
    EpochKeys::export(provider, group, now_s)?.store(provider, &group_id, epoch)?;
    let rows = provider.storage.list(&group_id, row::EPOCH_KEYS);
    let past = &rows[..rows.len() - 1];
    let mut recent = 0;
    for (_, value) in past {
        recent += usize::from(decode::<EpochKeys>(value)?.ended_at_s.saturating_add(PAST_EPOCH_S) >= now_s);
    }
    let kept = recent.max(MIN_PAST_EPOCHS).min(MAX_PAST_EPOCHS);
    for (key, _) in &past[..past.len().saturating_sub(kept)] {
        provider.storage.put(&group_id, key, None)?;
    }
    if past.len() > kept {
        // By number only: no secret is older than the beginning of time.
        let deletion = PastEpochDeletion::before_timestamp(std::time::UNIX_EPOCH).max_past_epochs(kept);
        group.delete_past_epoch_secrets(provider, deletion).map_err(by(Kind::Internal))?;
    }
    Ok(())
}

/// Whether a value that does not apply is bad for all alike, or only for us.
enum Refusal {
    Void,
    Stuck,
}

pub fn apply_gate_value(
    provider: &Provider,
    group: &mut MlsGroup,
    k: u8,
    value: &[u8],
    known: &Known,
    now_s: u64,
) -> Result<AppliedFields> {
    refuse_if_evicted(group)?;
    let group_id = group.group_id().as_slice().to_vec();
    let keys = EpochKeys::load(provider, &group_id, current_epoch(group))?;
    let name = keys.gate_name(k)?.to_vec();
    if load_pending(provider, group).is_ok_and(|pending| pending.k == k && pending.gate_value == value) {
        return confirm(provider, group, known, now_s);
    }
    let Some(opened) = GateValue::open(&keys.gate_key, &name, value).filter(|opened| opened.time_s <= MAX_TIME_S) else {
        return Ok(not_applied("void", group));
    };
    let (change, staged) = match judge_value(provider, group, &opened) {
        Ok(judged) => judged,
        Err(refusal) => {
            provider.storage.roll_back();
            let verdict = match refusal {
                Refusal::Void => "void",
                Refusal::Stuck => "stuck",
            };
            return Ok(not_applied(verdict, group));
        }
    };
    let commit_body = envelope::seal_commit_body(&keys.seal_key, k, value)?;
    clock::set(now_s);
    group.merge_staged_commit(provider, staged).map_err(by(Kind::Internal))?;
    finish(provider, group, change, commit_body, opened.welcomes, known, now_s)
}

fn judge_value(provider: &Provider, group: &mut MlsGroup, opened: &GateValue) -> std::result::Result<(Change, StagedCommit), Refusal> {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(&opened.commit).map_err(|_| Refusal::Void)?;
    let MlsMessageBodyIn::PrivateMessage(message) = message.extract() else { return Err(Refusal::Void) };
    let message = ProtocolMessage::from(message);
    let is_here = message.group_id() == group.group_id() && message.epoch() == group.epoch();
    if !is_here || message.content_type() != ContentType::Commit {
        return Err(Refusal::Void);
    }
    // The committer checked the lifetimes of what it adds; its time lies inside them, for every member and whenever it looks.
    clock::set(opened.time_s);
    let processed = group.process_message(provider, message).map_err(refusal)?;
    let sender = processed.sender().clone();
    match processed.into_content() {
        ProcessedMessageContent::StagedCommitMessage(staged) => {
            let change = rules::judge(group, &sender, &staged).map_err(|_| Refusal::Void)?;
            if !welcomes_fit(opened, &staged) {
                return Err(Refusal::Void);
            }
            Ok((change, *staged))
        }
        // It says that we made it, but it is not what we have pending; others can tell whether that is true, we cannot.
        ProcessedMessageContent::OwnPrivateMessage | ProcessedMessageContent::OwnPendingCommit => Err(Refusal::Stuck),
        _ => Err(Refusal::Void),
    }
}

/// One Welcome for each added leaf, to its own address: whoever finishes for the committer sends to no one else.
fn welcomes_fit(opened: &GateValue, staged: &StagedCommit) -> bool {
    let added = staged.add_proposals().map(|add| Leaf::read(add.add_proposal().key_package().leaf_node()).map(|leaf| leaf.address));
    let welcomed = opened.welcomes.iter().map(|(address, _)| address.to_vec());
    added.collect::<Result<Vec<_>>>().is_ok_and(|added| added.into_iter().eq(welcomed))
        && opened.welcomes.iter().all(|(_, body)| (1..=MAX_BODY_BYTES).contains(&body.len()))
}

/// Void is only what every member finds by the same public checks; all else is ours alone.
fn refusal(error: ProcessMessageError<StorageError>) -> Refusal {
    use ProcessMessageError as P;
    use StageCommitError as S;
    match error {
        P::LibraryError(_) | P::StorageError(_) | P::GroupStateError(_) => Refusal::Stuck,
        P::ValidationError(ValidationError::LibraryError(_)) => Refusal::Stuck,
        P::ValidationError(ValidationError::UnableToDecrypt(MessageDecryptionError::LibraryError(_))) => Refusal::Stuck,
        P::InvalidCommit(error) => match error {
            S::LibraryError(_) | S::ConfirmationTagMismatch | S::OwnKeyNotFound | S::MissingDecryptionKey | S::OwnCommitMismatch => {
                Refusal::Stuck
            }
            S::ProposalValidationError(ProposalValidationError::LibraryError(_)) => Refusal::Stuck,
            S::UpdatePathError(ApplyUpdatePathError::PathLengthMismatch | ApplyUpdatePathError::ParentHashMismatch) => Refusal::Void,
            S::UpdatePathError(_) => Refusal::Stuck,
            _ => Refusal::Void,
        },
        _ => Refusal::Void,
    }
}

// -- messages -------------------------------------------------------------------------------------------------------------

pub fn protect(provider: &Provider, group: &mut MlsGroup, contents: &[ByteBuf]) -> Result<Vec<ByteBuf>> {
    refuse_if_evicted(group)?;
    let device = OwnDevice::load(&provider.storage)?;
    let keys = EpochKeys::load(provider, group.group_id().as_slice(), current_epoch(group))?;
    let mut bodies = Vec::with_capacity(contents.len());
    for content in contents {
        if content.len() > MAX_BODY_BYTES {
            return Err(Kind::TooLarge.because("the content is above what an envelope holds"));
        }
        let epoch = current_epoch(group);
        let message = provider.storage.touching(epoch, || group.create_message(provider, &device, content)).map_err(by(Kind::Internal))?;
        let message = message.to_bytes().map_err(by(Kind::Internal))?;
        bodies.push(ByteBuf::from(envelope::seal_body(&keys.seal_key, TAG_MESSAGE, &message)?));
    }
    Ok(bodies)
}

/// kind, sender, epoch, content, k, gate value.
#[derive(Serialize)]
pub struct ReceivedFields(&'static str, Option<Pair>, u64, ByteBuf, u8, ByteBuf);

fn received(kind: &'static str, epoch: u64) -> ReceivedFields {
    ReceivedFields(kind, None, epoch, ByteBuf::new(), 0, ByteBuf::new())
}

/// Opens one body and keeps what it changed; a body that is junk changes nothing.
pub fn receive(provider: &Provider, group: &mut MlsGroup, body: &[u8]) -> Result<ReceivedFields> {
    let group_id = group.group_id().as_slice().to_vec();
    let current = current_epoch(group);
    if group.is_active() {
        let keys = EpochKeys::load(provider, &group_id, current)?;
        if let Some(plaintext) = envelope::open_body(&keys.seal_key, body) {
            return Ok(read_body(provider, group, current, &plaintext));
        }
    }
    for (key, value) in provider.storage.list(&group_id, row::EPOCH_KEYS).iter().rev() {
        let keys: EpochKeys = decode(value)?;
        if let Some(plaintext) = envelope::open_body(&keys.seal_key, body) {
            let epoch = u64::from_be_bytes(fixed(&key[1..], "epoch")?);
            return Ok(read_body(provider, group, epoch, &plaintext));
        }
    }
    Ok(received("later", 0))
}

fn read_body(provider: &Provider, group: &mut MlsGroup, epoch: u64, plaintext: &[u8]) -> ReceivedFields {
    let is_current = epoch == current_epoch(group) && group.is_active();
    let result = match envelope::unpad(plaintext) {
        Some((TAG_MESSAGE, payload)) => read_message(provider, group, epoch, payload),
        Some((TAG_COMMIT | TAG_LOOK_AT_GATE, _)) if !is_current => Some(received("duplicate", epoch)),
        Some((TAG_COMMIT, payload)) => envelope::read_commit(payload)
            .filter(|(k, _)| *k < GATES)
            .map(|(k, value)| ReceivedFields("commit", None, epoch, ByteBuf::new(), k, value)),
        Some((TAG_LOOK_AT_GATE, payload)) => envelope::read_notice(payload)
            .filter(|k| *k < GATES)
            .map(|k| ReceivedFields("look_at_gate", None, epoch, ByteBuf::new(), k, ByteBuf::new())),
        _ => None,
    };
    result.unwrap_or_else(|| received("junk", epoch))
}

fn read_message(provider: &Provider, group: &mut MlsGroup, epoch: u64, payload: &[u8]) -> Option<ReceivedFields> {
    let MlsMessageBodyIn::PrivateMessage(message) = MlsMessageIn::tls_deserialize_exact_bytes(payload).ok()?.extract() else {
        return None;
    };
    let message = ProtocolMessage::from(message);
    let is_content = message.content_type() == ContentType::Application;
    if !is_content || message.group_id() != group.group_id() || message.epoch().as_u64() != epoch {
        return None;
    }
    match provider.storage.touching(epoch, || group.process_message(provider, message)) {
        Ok(processed) => {
            let sender = Identity::of(processed.credential()).ok()?;
            match processed.into_content() {
                ProcessedMessageContent::ApplicationMessage(content) => {
                    let content = ByteBuf::from(content.into_bytes());
                    Some(ReceivedFields("content", Some(pair(&sender)), epoch, content, 0, ByteBuf::new()))
                }
                ProcessedMessageContent::OwnPrivateMessage => Some(received("duplicate", epoch)),
                _ => None,
            }
        }
        Err(ProcessMessageError::ValidationError(ValidationError::UnableToDecrypt(MessageDecryptionError::SecretTreeError(error))))
            if was_used(&error.to_string()) =>
        {
            Some(received("duplicate", epoch))
        }
        Err(_) => None,
    }
}

/// OpenMLS does not export the type of this error, only its text.
fn was_used(text: &str) -> bool {
    text.starts_with("The requested secret was deleted")
}

pub fn export(provider: &Provider, group: &MlsGroup, label: &str, context: &[u8], length: usize) -> Result<ByteBuf> {
    refuse_if_evicted(group)?;
    if label.starts_with(RESERVED_LABELS) {
        return Err(Kind::PolicyRefused.because("labels that begin with \"taube \" are reserved"));
    }
    Ok(ByteBuf::from(group.export_secret(provider.crypto(), label, context, length).map_err(by(Kind::TooLarge))?))
}

// -- mail between devices that share no group, and rejoining ----------------------------------------------------------------

fn seal_stranger_body(hpke_key: &[u8], tag: u8, payload: &[u8]) -> Result<ByteBuf> {
    let body = seal_to_stranger(hpke_key, &envelope::pad(tag, payload)).ok_or_else(|| Kind::Unverified.because("an unusable HPKE key"))?;
    if body.len() > MAX_BODY_BYTES {
        return Err(Kind::TooLarge.because("the Welcome is above what an envelope holds"));
    }
    Ok(ByteBuf::from(body))
}

fn open_stranger_body(device: &OwnDevice, body: &[u8]) -> Result<(u8, Vec<u8>)> {
    let plaintext = open_from_stranger(device.hpke_secret(), body).ok_or_else(|| Kind::NotForUs.because("HPKE does not open"))?;
    let (tag, payload) = envelope::unpad(&plaintext).ok_or_else(|| Kind::NotForUs.because("the padding is wrong"))?;
    Ok((tag, payload.to_vec()))
}

/// kind, payload, account, device, chat id, last epoch, key package, time.
#[derive(Serialize)]
pub struct StrangerFields(&'static str, ByteBuf, ByteBuf, ByteBuf, ByteBuf, u64, ByteBuf, u64);

/// account, device, chat id, group id, last epoch, key package, time.
type RejoinFields = (ByteBuf, ByteBuf, ByteBuf, ByteBuf, u64, ByteBuf, u64);

pub fn open_from_stranger_mail(provider: &Provider, body: &[u8]) -> Result<StrangerFields> {
    let device = OwnDevice::load(&provider.storage)?;
    let (tag, payload) = open_stranger_body(&device, body)?;
    let empty = ByteBuf::new;
    match tag {
        TAG_WELCOME => Ok(StrangerFields("welcome", ByteBuf::from(payload), empty(), empty(), empty(), 0, empty(), 0)),
        TAG_REJOIN => {
            let (_, _, request) = read_rejoin(&payload)?;
            let (account, device, chat_id, _, last_epoch, package, time_s) = request;
            Ok(StrangerFields("rejoin", ByteBuf::from(payload), account, device, chat_id, last_epoch, package, time_s))
        }
        _ => Ok(StrangerFields("unknown", ByteBuf::from(payload), empty(), empty(), empty(), 0, empty(), 0)),
    }
}

fn read_rejoin(payload: &[u8]) -> Result<(ByteBuf, ByteBuf, RejoinFields)> {
    let malformed = |_| Kind::Malformed.because("not a rejoin request");
    let (request, signature): (ByteBuf, ByteBuf) = decode(payload).map_err(malformed)?;
    let fields = decode(&request).map_err(malformed)?;
    Ok((request, signature, fields))
}

fn rejoin_message(peer: &Identity, request: &[u8]) -> Vec<u8> {
    [REJOIN_LABEL, &peer.account, &peer.device, request].concat()
}

pub fn rejoin_request(provider: &Provider, group: &MlsGroup, peer: &Pair, package: &[u8], now_s: u64) -> Result<(ByteBuf, ByteBuf)> {
    let device = OwnDevice::load(&provider.storage)?;
    let peer = identity(peer)?;
    let (_, leaf) = find(group, &peer)?;
    let certificate = Certificate::verify(&leaf.certificate)?;
    let hpke_key =
        certificate.device(&peer.device).ok_or_else(|| Kind::Unverified.because("the peer's device is not on its list"))?.hpke_key;
    let own = own_account(group)?;
    let chat_id = ChatContext::of(group.extensions())?.chat_id;
    let group_id = buf(group.group_id().as_slice());
    let fields: RejoinFields =
        (buf(&own.account), buf(&device.id), buf(&chat_id), group_id, current_epoch(group), buf(package), now_s);
    let request = ByteBuf::from(encode(&fields));
    let signature = buf(&device.sign_with_mls_key(&rejoin_message(&peer, &request)));
    let body = seal_stranger_body(&hpke_key, TAG_REJOIN, &encode(&(request, signature)))?;
    Ok((ByteBuf::from(leaf.address), body))
}

/// Whose group state this is; kept by OpenMLS even after a Remove.
fn own_account(group: &MlsGroup) -> Result<Identity> {
    let node: &LeafNode = group.own_leaf().ok_or_else(|| Kind::Evicted.because("this device has no leaf"))?;
    Identity::of(node.credential())
}

pub fn check_rejoin(provider: &Provider, group: &MlsGroup, payload: &[u8], certificate: &[u8], now_s: u64) -> Result<()> {
    refuse_if_evicted(group)?;
    let (request, signature, fields) = read_rejoin(payload)?;
    let (account, device, chat_id, group_id, _, package, time_s) = fields;
    let asking = identity(&(account, device))?;
    let newest = Certificate::verify(certificate)?;
    if newest.account != asking.account {
        return Err(Kind::Unverified.because("certificate of another account"));
    }
    let listed = newest.device(&asking.device).ok_or_else(|| Kind::Unverified.because("the device is not on the account's list"))?;
    let own = own_account(group)?;
    if !ed25519_verify(&listed.mls_key, &rejoin_message(&own, &request), &signature) {
        return Err(Kind::Unverified.because("the request's signature is wrong"));
    }
    if chat_id != ChatContext::of(group.extensions())?.chat_id[..] || group_id != group.group_id().as_slice() {
        return Err(Kind::PolicyRefused.because("the request is for another group"));
    }
    let newest_in_group = rules::leaves(group)?.values().filter(|leaf| leaf.identity.account == asking.account).map(|leaf| leaf.counter).max();
    match newest_in_group {
        None => return Err(Kind::PolicyRefused.because("the account is not in the group")),
        Some(counter) if newest.counter < counter => return Err(Kind::CounterOutdated.because("an older device list than in the group")),
        Some(_) => {}
    }
    if time_s > now_s.saturating_add(DAY_S) || time_s.saturating_add(MAX_REQUEST_AGE_S) < now_s {
        return Err(Kind::Expired.because("the request is too old, or from the future"));
    }
    let checked = check_package(provider, &package, now_s)?;
    check_against_newest(&checked, &newest)?;
    if checked.leaf.identity != asking || checked.package.ciphersuite() != group.ciphersuite() {
        return Err(Kind::PolicyRefused.because("the key package does not fit the request"));
    }
    Ok(())
}
