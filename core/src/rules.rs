//! What makes a leaf and a commit valid in Taube beyond RFC 9420: judged from the old epoch's public state alone, so alike by all.
//!
//! Two private extensions carry what the rules look at: each leaf its address and certificate, the GroupContext kind, chat id,
//! admins and predecessor. Source: docs/protocol/groups.md, GRP-10 to GRP-29.

use std::collections::{BTreeMap, BTreeSet};

use openmls::prelude::{
    Capabilities, CredentialType, Extension, ExtensionType, Extensions, GroupContext, LeafNode, LeafNodeIndex, MlsGroup, Proposal,
    ProposalOrRefType, ProtocolVersion, RequiredCapabilitiesExtension, Sender, StagedCommit, UnknownExtension,
};
use serde_bytes::ByteBuf;

use crate::{
    error::{Kind, Result, by},
    identity::{Bytes32, Certificate, Identity, fixed},
    provider::{CLASSIC, HYBRID},
    storage::{decode, encode},
};

/// Private use code points of RFC 9420, section 17.3.
const LEAF_EXTENSION: u16 = 0xF0A1;
const CONTEXT_EXTENSION: u16 = 0xF0A2;
const CONTEXT_VERSION: u8 = 1;
const ADDRESS_BYTES: usize = 41;
const MAX_ADMINS: usize = 64;

pub const KIND_PAIR: u8 = 0;
pub const KIND_GROUP: u8 = 1;

pub fn capabilities() -> Capabilities {
    Capabilities::new(
        Some(&[ProtocolVersion::Mls10]),
        Some(&[CLASSIC, HYBRID]),
        Some(&[ExtensionType::Unknown(LEAF_EXTENSION), ExtensionType::Unknown(CONTEXT_EXTENSION), ExtensionType::LastResort]),
        Some(&[]),
        Some(&[CredentialType::Basic]),
    )
}

/// (kind, chat id, admins, predecessor) as the host gives and gets it.
pub type ContextFields = (u8, ByteBuf, Vec<ByteBuf>, Option<(ByteBuf, u64)>);

/// The chat's own part of the GroupContext.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatContext {
    pub kind: u8,
    pub chat_id: [u8; 16],
    pub admins: Vec<Bytes32>,
    pub predecessor: Option<(Bytes32, u64)>,
}

impl ChatContext {
    pub fn from_fields(fields: &ContextFields) -> Result<Self> {
        let (kind, chat_id, admins, predecessor) = fields;
        let context = Self {
            kind: *kind,
            chat_id: fixed(chat_id, "chat id")?,
            admins: admins.iter().map(|admin| fixed(admin, "admin")).collect::<Result<_>>()?,
            predecessor: match predecessor {
                Some((group, epoch)) => Some((fixed(group, "predecessor")?, *epoch)),
                None => None,
            },
        };
        let distinct = context.admins.iter().collect::<BTreeSet<_>>().len() == context.admins.len();
        let fits = match context.kind {
            KIND_PAIR => context.admins.len() == 2,
            KIND_GROUP => (1..=MAX_ADMINS).contains(&context.admins.len()),
            _ => false,
        };
        if distinct && fits { Ok(context) } else { Err(Kind::PolicyRefused.because("kind and admins do not fit")) }
    }

    pub fn fields(&self) -> ContextFields {
        (
            self.kind,
            ByteBuf::from(self.chat_id),
            self.admins.iter().map(|admin| ByteBuf::from(*admin)).collect(),
            self.predecessor.map(|(group, epoch)| (ByteBuf::from(group), epoch)),
        )
    }

    /// All extensions of a GroupContext that holds this chat; nothing else may stand beside them.
    pub fn extensions(&self) -> Result<Extensions<GroupContext>> {
        let (kind, chat_id, admins, predecessor) = self.fields();
        let bytes = encode(&(CONTEXT_VERSION, kind, chat_id, admins, predecessor));
        let required = RequiredCapabilitiesExtension::new(
            &[ExtensionType::Unknown(LEAF_EXTENSION), ExtensionType::Unknown(CONTEXT_EXTENSION)],
            &[],
            &[CredentialType::Basic],
        );
        Extensions::from_vec(vec![
            Extension::RequiredCapabilities(required),
            Extension::Unknown(CONTEXT_EXTENSION, UnknownExtension(bytes)),
        ])
        .map_err(by(Kind::Internal))
    }

    pub fn of(extensions: &Extensions<GroupContext>) -> Result<Self> {
        let extension =
            extensions.unknown(CONTEXT_EXTENSION).ok_or_else(|| Kind::PolicyRefused.because("the group is no chat of Taube"))?;
        let (version, kind, chat_id, admins, predecessor): (u8, u8, ByteBuf, Vec<ByteBuf>, Option<(ByteBuf, u64)>) =
            decode(&extension.0).map_err(|_| Kind::PolicyRefused.because("the chat's context cannot be read"))?;
        if version != CONTEXT_VERSION {
            return Err(Kind::PolicyRefused.because("the chat's context is of another version"));
        }
        let context = Self::from_fields(&(kind, chat_id, admins, predecessor))?;
        if *extensions != context.extensions()? {
            return Err(Kind::PolicyRefused.because("the GroupContext holds other extensions"));
        }
        Ok(context)
    }

    pub fn is_admin(&self, account: &Bytes32) -> bool {
        self.admins.contains(account)
    }
}

/// The extension that a leaf of ours carries.
pub fn leaf_extensions(address: &[u8], certificate: &[u8]) -> Result<Extensions<LeafNode>> {
    if address.len() != ADDRESS_BYTES {
        return Err(Kind::Malformed.because("an address is 41 bytes long"));
    }
    let bytes = encode(&(ByteBuf::from(address), ByteBuf::from(certificate)));
    Extensions::single(Extension::Unknown(LEAF_EXTENSION, UnknownExtension(bytes))).map_err(by(Kind::Internal))
}

/// A leaf as the rules see it. The certificate was verified when the leaf first appeared.
#[derive(Debug, Clone)]
pub struct Leaf {
    pub identity: Identity,
    pub address: Vec<u8>,
    pub certificate: Vec<u8>,
    pub counter: u64,
}

impl Leaf {
    /// Reads a leaf that is in the tree already.
    pub fn read(node: &LeafNode) -> Result<Self> {
        Self::parse(node, false).map(|(leaf, _)| leaf)
    }

    /// Reads a leaf that first appears and checks it against its certificate.
    pub fn verify(node: &LeafNode) -> Result<(Self, Certificate)> {
        let (leaf, certificate) = Self::parse(node, true)?;
        Ok((leaf, certificate.expect("was verified")))
    }

    fn parse(node: &LeafNode, verify: bool) -> Result<(Self, Option<Certificate>)> {
        let identity = Identity::of(node.credential())?;
        let extension =
            node.extensions().unknown(LEAF_EXTENSION).ok_or_else(|| Kind::Unverified.because("a leaf without address and certificate"))?;
        let (address, certificate): (ByteBuf, ByteBuf) =
            decode(&extension.0).map_err(|_| Kind::Unverified.because("a leaf's address and certificate cannot be read"))?;
        if address.len() != ADDRESS_BYTES || node.extensions().iter().count() != 1 {
            return Err(Kind::Unverified.because("a leaf's extensions are not as they should be"));
        }
        let (verified, counter) = if verify {
            let verified = Certificate::verify(&certificate)?;
            verified.proves(&identity, node.signature_key().as_slice())?;
            let counter = verified.counter;
            (Some(verified), counter)
        } else {
            (None, Certificate::read_counter(&certificate)?)
        };
        Ok((Self { identity, address: address.into_vec(), certificate: certificate.into_vec(), counter }, verified))
    }
}

pub type Leaves = BTreeMap<LeafNodeIndex, Leaf>;

pub fn leaves(group: &MlsGroup) -> Result<Leaves> {
    group.treesync().full_leaves().map(|(index, node)| Ok((index, Leaf::read(node)?))).collect()
}

/// A whole tree that we see for the first time: every leaf proven, none twice, and in a pair only the two.
pub fn check_tree<'a>(context: &ChatContext, nodes: impl Iterator<Item = &'a LeafNode>) -> Result<Vec<Leaf>> {
    let leaves = nodes.map(|node| Leaf::verify(node).map(|(leaf, _)| leaf)).collect::<Result<Vec<_>>>()?;
    check_members(context, leaves.iter())?;
    Ok(leaves)
}

fn check_members<'a>(context: &ChatContext, leaves: impl Iterator<Item = &'a Leaf>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for leaf in leaves {
        if !seen.insert(leaf.identity) {
            return Err(Kind::PolicyRefused.because("a device has two leaves"));
        }
        if context.kind == KIND_PAIR && !context.is_admin(&leaf.identity.account) {
            return Err(Kind::PolicyRefused.because("a third account in a chat of two"));
        }
    }
    Ok(())
}

/// What a commit does, in the words of Taube.
#[derive(Debug)]
pub struct Change {
    pub committer: Identity,
    pub added: Vec<Identity>,
    pub removed: Vec<Identity>,
    pub updated: Option<Identity>,
    pub context: Option<ChatContext>,
}

/// Judges a commit of the member *sender* against the old epoch's state. Its result is the same for every member.
pub fn judge(group: &MlsGroup, sender: &Sender, commit: &StagedCommit) -> Result<Change> {
    let context = ChatContext::of(group.extensions())?;
    let old = leaves(group)?;
    let Sender::Member(sender) = sender else {
        return Err(Kind::PolicyRefused.because("a commit by someone who is no member"));
    };
    let committer = old.get(sender).ok_or_else(|| Kind::PolicyRefused.because("a commit from an empty leaf"))?;
    let mut new = old.clone();
    let mut change = Change { committer: committer.identity, added: vec![], removed: vec![], updated: None, context: None };
    let mut added = Vec::new();
    for queued in commit.queued_proposals() {
        if queued.proposal_or_ref_type() != ProposalOrRefType::Proposal {
            return Err(Kind::PolicyRefused.because("a proposal by reference"));
        }
        match queued.proposal() {
            Proposal::Add(add) => added.push(Leaf::verify(add.key_package().leaf_node())?.0),
            Proposal::Remove(remove) => {
                let leaf = new.remove(&remove.removed()).ok_or_else(|| Kind::PolicyRefused.because("removes an empty leaf"))?;
                change.removed.push(leaf.identity);
            }
            Proposal::GroupContextExtensions(extensions) => change.context = Some(ChatContext::of(extensions.extensions())?),
            _ => return Err(Kind::PolicyRefused.because("a kind of proposal that Taube does not use")),
        }
    }
    if let Some(node) = commit.update_path_leaf_node() {
        let (leaf, _) = Leaf::verify(node)?;
        if leaf.identity != committer.identity {
            return Err(Kind::PolicyRefused.because("an update that changes whose leaf it is"));
        }
        check_counter(&leaf, &old)?;
        change.updated = Some(leaf.identity);
    }
    for leaf in &added {
        check_counter(leaf, &old)?;
        change.added.push(leaf.identity);
    }
    check_members(&context, new.values().chain(&added))?;
    check_roles(&context, &old, committer, &change)?;
    Ok(change)
}

/// A leaf's device list may not be older than one that its account already shows in this group.
fn check_counter(leaf: &Leaf, old: &Leaves) -> Result<()> {
    let newest = old.values().filter(|other| other.identity.account == leaf.identity.account).map(|other| other.counter).max();
    if newest.is_some_and(|newest| leaf.counter < newest) {
        return Err(Kind::CounterOutdated.because("a device list that is older than one in the group"));
    }
    Ok(())
}

/// Admins may do all; others may manage their own devices, and replace leaves of an account that keeps at least one.
fn check_roles(context: &ChatContext, old: &Leaves, committer: &Leaf, change: &Change) -> Result<()> {
    if let Some(new) = &change.context {
        let same = new.kind == context.kind && new.chat_id == context.chat_id && new.predecessor == context.predecessor;
        if !same || context.kind == KIND_PAIR {
            return Err(Kind::PolicyRefused.because("that part of a chat's context never changes"));
        }
        if !context.is_admin(&committer.identity.account) {
            return Err(Kind::PolicyRefused.because("only admins change the chat's context"));
        }
    }
    if context.is_admin(&committer.identity.account) {
        return Ok(());
    }
    let count = |devices: &[Identity], account: &Bytes32| devices.iter().filter(|device| device.account == *account).count();
    for account in change.added.iter().chain(&change.removed).map(|device| device.account) {
        let is_member = old.values().any(|leaf| leaf.identity.account == account);
        let replaces = count(&change.added, &account) == count(&change.removed, &account);
        let is_own = account == committer.identity.account;
        if !is_member || !(is_own || replaces) {
            return Err(Kind::PolicyRefused.because("only admins add and remove others"));
        }
    }
    Ok(())
}
