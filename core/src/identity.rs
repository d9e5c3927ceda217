//! Who someone is: account and device keys, signed device lists, certificates, safety numbers.
//!
//! Every signature is Ed25519 over a label of its own followed by bytes. Lists and certificates are MessagePack arrays; the
//! bytes that were signed are kept and never encoded again.

use openmls::prelude::{BasicCredential, Credential, SignatureScheme};
use openmls_traits::signatures::{Signer, SignerError};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    error::{Kind, Result},
    provider::{ed25519_public, ed25519_sign, ed25519_verify, random, sha256, x25519_public},
    storage::{Storage, decode, encode},
};

pub const ACCOUNT: &[u8] = b"account";
pub const DEVICE: &[u8] = b"device";

const LOGIN_LABEL: &[u8] = b"taube login v1";
const LIST_LABEL: &[u8] = b"taube device list v1";
const SUCCESSION_LABEL: &[u8] = b"taube account key v1";
const SAFETY_LABEL: &[u8] = b"taube safety number v1";

const GENESIS_VERSION: u8 = 1;
const LIST_VERSION: u8 = 1;
const MAX_DEVICES: usize = 16;
const MAX_SUCCESSIONS: usize = 16;
const MAX_SIGNED_LIST_BYTES: usize = 4096;
const MAX_COUNTER: u64 = 1 << 53;
const SAFETY_ROUNDS: usize = 5200;

pub type Bytes16 = [u8; 16];
pub type Bytes32 = [u8; 32];

pub fn fixed<const N: usize>(bytes: &[u8], what: &str) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| Kind::Malformed.because(format!("{what} is not {N} bytes long")))
}

/// Account and device: what an MLS credential names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    pub account: Bytes32,
    pub device: Bytes16,
}

impl Identity {
    pub fn credential(&self) -> Credential {
        BasicCredential::new([&self.account[..], &self.device[..]].concat()).into()
    }

    pub fn of(credential: &Credential) -> Result<Self> {
        let basic = BasicCredential::try_from(credential.clone()).map_err(|_| Kind::Unverified.because("credential is not basic"))?;
        let (account, device) = basic
            .identity()
            .split_at_checked(32)
            .ok_or_else(|| Kind::Unverified.because("credential is not an account and a device"))?;
        Ok(Self { account: fixed(account, "account id")?, device: fixed(device, "device id")? })
    }
}

/// A device as its account's list names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub id: Bytes16,
    pub login_key: Bytes32,
    pub mls_key: Bytes32,
    pub hpke_key: Bytes32,
}

pub type DeviceFields = (ByteBuf, ByteBuf, ByteBuf, ByteBuf);

impl Device {
    pub fn fields(&self) -> DeviceFields {
        (buf(&self.id), buf(&self.login_key), buf(&self.mls_key), buf(&self.hpke_key))
    }

    fn from_fields(fields: &DeviceFields) -> Result<Self> {
        Ok(Self {
            id: fixed(&fields.0, "device id")?,
            login_key: fixed(&fields.1, "login key")?,
            mls_key: fixed(&fields.2, "MLS key")?,
            hpke_key: fixed(&fields.3, "HPKE key")?,
        })
    }
}

pub fn buf(bytes: &[u8]) -> ByteBuf {
    ByteBuf::from(bytes.to_vec())
}

type ListFields = (u8, ByteBuf, u64, Vec<DeviceFields>, Vec<(ByteBuf, ByteBuf)>);

/// A certificate whose every signature has been verified.
#[derive(Debug, Clone)]
pub struct Certificate {
    pub account: Bytes32,
    pub counter: u64,
    pub account_key: Bytes32,
    pub devices: Vec<Device>,
}

impl Certificate {
    pub fn verify(bytes: &[u8]) -> Result<Self> {
        let (genesis, signed): (ByteBuf, ByteBuf) = decode(bytes).map_err(|_| Kind::Malformed.because("not a certificate"))?;
        let genesis: [u8; 65] = fixed(&genesis, "genesis statement")?;
        let [GENESIS_VERSION, keys @ ..] = genesis else {
            return Err(Kind::Malformed.because("genesis statement of an unknown version"));
        };
        let account = sha256(&[&genesis]);
        let (first_key, recovery_key) = keys.split_at(32);
        if signed.len() > MAX_SIGNED_LIST_BYTES {
            return Err(Kind::Malformed.because("device list is too long"));
        }
        let (signature, list) = signed.split_at_checked(64).ok_or_else(|| Kind::Malformed.because("device list is too short"))?;
        let (version, listed, counter, devices, successions): ListFields =
            decode(list).map_err(|_| Kind::Malformed.because("not a device list"))?;
        if version != LIST_VERSION || !(1..=MAX_COUNTER).contains(&counter) {
            return Err(Kind::Malformed.because("device list of an unknown version, or its counter is out of range"));
        }
        if !(1..=MAX_DEVICES).contains(&devices.len()) || successions.len() > MAX_SUCCESSIONS {
            return Err(Kind::Malformed.because("device list with too few or too many entries"));
        }
        if *listed != account {
            return Err(Kind::Unverified.because("device list of another account"));
        }
        let account_key = newest_key(&account, first_key, recovery_key, &successions)?;
        if !ed25519_verify(&account_key, &[LIST_LABEL, list].concat(), signature) {
            return Err(Kind::Unverified.because("the device list's signature is wrong"));
        }
        let devices = devices.iter().map(Device::from_fields).collect::<Result<Vec<_>>>()?;
        if devices.iter().enumerate().any(|(at, device)| devices[..at].iter().any(|other| other.id == device.id)) {
            return Err(Kind::Malformed.because("device list names a device twice"));
        }
        Ok(Self { account, counter, account_key, devices })
    }

    /// The list's counter, of a certificate that was verified before.
    pub fn read_counter(bytes: &[u8]) -> Result<u64> {
        let unreadable = |_| Kind::Malformed.because("not a certificate");
        let (_, signed): (ByteBuf, ByteBuf) = decode(bytes).map_err(unreadable)?;
        let list = signed.get(64..).unwrap_or_default();
        let (_, _, counter, _, _): ListFields = decode(list).map_err(unreadable)?;
        Ok(counter)
    }

    pub fn device(&self, id: &Bytes16) -> Option<&Device> {
        self.devices.iter().find(|device| device.id == *id)
    }

    /// The device that *identity* names, if this certificate is its account's and lists it with this MLS key.
    pub fn proves(&self, identity: &Identity, mls_key: &[u8]) -> Result<&Device> {
        if self.account != identity.account {
            return Err(Kind::Unverified.because("certificate of another account"));
        }
        let device = self.device(&identity.device).ok_or_else(|| Kind::Unverified.because("the device is not on its account's list"))?;
        if device.mls_key != mls_key {
            return Err(Kind::Unverified.because("the device list names another MLS key"));
        }
        Ok(device)
    }
}

/// Follows the successions: each new key is signed by the one before or by the recovery key.
fn newest_key(account: &Bytes32, first: &[u8], recovery: &[u8], successions: &[(ByteBuf, ByteBuf)]) -> Result<Bytes32> {
    let mut key: Bytes32 = fixed(first, "account key")?;
    for (next, signature) in successions {
        let next: Bytes32 = fixed(next, "account key")?;
        let message = [SUCCESSION_LABEL, account, &next].concat();
        if !ed25519_verify(&key, &message, signature) && !ed25519_verify(recovery, &message, signature) {
            return Err(Kind::Unverified.because("a succession's signature is wrong"));
        }
        key = next;
    }
    Ok(key)
}

#[derive(Serialize, Deserialize)]
struct AccountSecrets {
    account: ByteBuf,
    genesis: ByteBuf,
    account_secret: ByteBuf,
    recovery_secret: ByteBuf,
    successions: Vec<(ByteBuf, ByteBuf)>,
}

#[derive(Serialize, Deserialize)]
struct DeviceSecrets {
    id: ByteBuf,
    login_secret: ByteBuf,
    mls_secret: ByteBuf,
    hpke_secret: ByteBuf,
}

/// Makes an account; returns (account id, genesis statement).
pub fn create_account(storage: &Storage) -> Result<(ByteBuf, ByteBuf)> {
    let (account_secret, recovery_secret) = (random::<32>(), random::<32>());
    let genesis = [&[GENESIS_VERSION][..], &ed25519_public(&account_secret), &ed25519_public(&recovery_secret)].concat();
    let account = buf(&sha256(&[&genesis]));
    let secrets = AccountSecrets {
        account: account.clone(),
        genesis: buf(&genesis),
        account_secret: buf(&account_secret),
        recovery_secret: buf(&recovery_secret),
        successions: Vec::new(),
    };
    storage.put(ACCOUNT, ACCOUNT, Some(encode(&secrets)))?;
    Ok((account, buf(&genesis)))
}

pub fn sign_device_list(storage: &Storage, counter: u64, devices: Vec<DeviceFields>) -> Result<Vec<u8>> {
    let row = storage.get(ACCOUNT, ACCOUNT).ok_or_else(|| Kind::NotLoaded.because("no account"))?;
    let secrets: AccountSecrets = decode(&row)?;
    let fields: ListFields = (LIST_VERSION, secrets.account, counter, devices, secrets.successions);
    let list = encode(&fields);
    let secret: Bytes32 = fixed(&secrets.account_secret, "account secret")?;
    let signature = ed25519_sign(&secret, &[LIST_LABEL, &list].concat());
    let signed = [&signature[..], &list].concat();
    Certificate::verify(&encode(&(secrets.genesis, buf(&signed))))?;
    Ok(signed)
}

/// Our own device with its secrets.
pub struct OwnDevice {
    pub id: Bytes16,
    login_secret: Bytes32,
    mls_secret: Bytes32,
    hpke_secret: Bytes32,
}

impl OwnDevice {
    pub fn create(storage: &Storage) -> Result<Self> {
        let device = Self { id: random(), login_secret: random(), mls_secret: random(), hpke_secret: random() };
        let secrets = DeviceSecrets {
            id: buf(&device.id),
            login_secret: buf(&device.login_secret),
            mls_secret: buf(&device.mls_secret),
            hpke_secret: buf(&device.hpke_secret),
        };
        storage.put(DEVICE, DEVICE, Some(encode(&secrets)))?;
        Ok(device)
    }

    pub fn load(storage: &Storage) -> Result<Self> {
        let row = storage.get(DEVICE, DEVICE).ok_or_else(|| Kind::NotLoaded.because("no device"))?;
        let secrets: DeviceSecrets = decode(&row)?;
        Ok(Self {
            id: fixed(&secrets.id, "device id")?,
            login_secret: fixed(&secrets.login_secret, "login secret")?,
            mls_secret: fixed(&secrets.mls_secret, "MLS secret")?,
            hpke_secret: fixed(&secrets.hpke_secret, "HPKE secret")?,
        })
    }

    pub fn public(&self) -> Device {
        Device {
            id: self.id,
            login_key: ed25519_public(&self.login_secret),
            mls_key: self.mls_key(),
            hpke_key: x25519_public(&self.hpke_secret),
        }
    }

    pub fn mls_key(&self) -> Bytes32 {
        ed25519_public(&self.mls_secret)
    }

    pub fn hpke_secret(&self) -> &Bytes32 {
        &self.hpke_secret
    }

    pub fn sign_with_mls_key(&self, message: &[u8]) -> [u8; 64] {
        ed25519_sign(&self.mls_secret, message)
    }

    pub fn login_signature(&self, origin: &str, nonce: &[u8]) -> Result<[u8; 64]> {
        let length = u16::try_from(origin.len()).map_err(|_| Kind::Malformed.because("origin is too long"))?;
        let message = [LOGIN_LABEL, &length.to_be_bytes(), origin.as_bytes(), &self.id, nonce].concat();
        Ok(ed25519_sign(&self.login_secret, &message))
    }
}

impl Signer for OwnDevice {
    fn sign(&self, payload: &[u8]) -> std::result::Result<Vec<u8>, SignerError> {
        Ok(self.sign_with_mls_key(payload).to_vec())
    }

    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// 60 digits, the same for both: 30 for each account, the smaller half first.
pub fn safety_number(mine: &Certificate, theirs: &Certificate) -> String {
    let mut halves = [digits(mine), digits(theirs)];
    halves.sort();
    halves.concat()
}

/// Six times five digits, each from five bytes of an iterated hash over account id and account key.
fn digits(certificate: &Certificate) -> String {
    let mut hash = sha256(&[SAFETY_LABEL, &certificate.account, &certificate.account_key]);
    for _ in 0..SAFETY_ROUNDS {
        hash = sha256(&[&hash, &certificate.account_key]);
    }
    hash[..30]
        .chunks_exact(5)
        .map(|chunk| chunk.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte)) % 100_000)
        .map(|number| format!("{number:05}"))
        .collect()
}
