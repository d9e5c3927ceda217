//! The boundary of Taube's core: bytes in, bytes out.
//!
//! The host asks `taube_buffer(length)` for room, writes a MessagePack array of arguments there and calls
//! `taube_call(number)`, which returns pointer << 32 | length of the answer; it stays until the next call. The answer is
//! [0, result, deltas] or [error code, text]. A call that fails changes nothing. A panic traps and the instance is lost.
//!
//! State is rows in scopes, loaded before use; what a call writes comes back as deltas. Time and randomness come from the host.
//! The calls, by number, are the arms of `dispatch`.

mod blob;
mod clock;
mod codec;
mod envelope;
mod error;
mod groups;
mod identity;
mod provider;
mod rules;
mod storage;

use std::{cell::RefCell, collections::BTreeMap};

use openmls::prelude::{GroupId, MlsGroup};
use serde::{Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;
use zeroize::{Zeroize as _, Zeroizing};

use error::{Error, Kind, Result};
use groups::{Known, Pair, Wanted};
use identity::{Certificate, DeviceFields, OwnDevice};
use provider::Provider;
use rules::ContextFields;
use storage::{Delta, Rows, decode, encode};

#[derive(Default)]
struct Core {
    provider: Provider,
    /// Groups that were used since they were loaded; always equal to their rows.
    groups: BTreeMap<Vec<u8>, MlsGroup>,
}

impl Core {
    /// Runs *work* on a group. Whatever fails drops the live group, so that the next call reads the rows again.
    fn on_group<T>(&mut self, group_id: &[u8], work: impl FnOnce(&Provider, &mut MlsGroup) -> Result<T>) -> Result<T> {
        let mut group = match self.groups.remove(group_id) {
            Some(group) => group,
            None => self.load_group(group_id)?,
        };
        let result = work(&self.provider, &mut group)?;
        self.groups.insert(group_id.to_vec(), group);
        Ok(result)
    }

    fn load_group(&self, group_id: &[u8]) -> Result<MlsGroup> {
        if !self.provider.storage.is_loaded(group_id) {
            return Err(Kind::NotLoaded.because("the group's scope is not loaded"));
        }
        MlsGroup::load(&self.provider.storage, &GroupId::from_slice(group_id))?
            .ok_or_else(|| Kind::NoSuchGroup.because("the scope holds no group"))
    }

    fn current_epoch(&mut self, group_id: &[u8]) -> Result<u64> {
        self.on_group(group_id, |_, group| Ok(groups::current_epoch(group)))
    }

    fn receive(&mut self, group_id: &[u8], bodies: &[ByteBuf]) -> Result<Vec<groups::ReceivedFields>> {
        let mut results = Vec::with_capacity(bodies.len());
        for body in bodies {
            results.push(self.on_group(group_id, |provider, group| groups::receive(provider, group, body))?);
            self.provider.storage.commit();
        }
        Ok(results)
    }

    fn apply(&mut self, group_id: &[u8], k: u8, value: &[u8], known: &Known, now_s: u64) -> Result<groups::AppliedFields> {
        let applied =
            self.on_group(group_id, |provider, group| groups::apply_gate_value(provider, group, k, value, known, now_s))?;
        if !applied.changed_state() {
            self.groups.remove(group_id);
        }
        Ok(applied)
    }

    fn dispatch(&mut self, number: u32, arguments: &[u8]) -> Result<Vec<u8>> {
        let storage = &self.provider.storage;
        match number {
            // State
            1 => {
                let (scope, rows): (ByteBuf, Vec<(ByteBuf, ByteBuf)>) = read(arguments)?;
                self.groups.remove(&scope[..]);
                let rows: Rows = rows.into_iter().map(|(key, value)| (key.into_vec(), value.into_vec())).collect();
                storage.load(scope.into_vec(), rows);
                answer(())
            }
            2 => {
                let (scope,): (ByteBuf,) = read(arguments)?;
                self.groups.remove(&scope[..]);
                storage.unload(&scope);
                answer(())
            }
            // Identity
            10 => answer(identity::create_account(storage)?),
            11 => answer(OwnDevice::create(storage)?.public().fields()),
            12 => {
                let (counter, devices): (u64, Vec<DeviceFields>) = read(arguments)?;
                answer(ByteBuf::from(identity::sign_device_list(storage, counter, devices)?))
            }
            13 => {
                let (origin, nonce): (String, ByteBuf) = read(arguments)?;
                answer(ByteBuf::from(OwnDevice::load(storage)?.login_signature(&origin, &nonce)?))
            }
            14 => {
                let (certificate,): (ByteBuf,) = read(arguments)?;
                answer(certificate_fields(&Certificate::verify(&certificate)?))
            }
            15 => {
                let (mine, theirs): (ByteBuf, ByteBuf) = read(arguments)?;
                answer(identity::safety_number(&Certificate::verify(&mine)?, &Certificate::verify(&theirs)?))
            }
            // Key packages
            20 => {
                let (suite, addresses, certificate, now_s, last_resort): (u16, Vec<ByteBuf>, ByteBuf, u64, bool) = read(arguments)?;
                answer(groups::create_key_packages(&self.provider, suite, &addresses, &certificate, now_s, last_resort)?)
            }
            21 => {
                let (references,): (Vec<ByteBuf>,) = read(arguments)?;
                answer(groups::delete_key_packages(&self.provider, &references)?)
            }
            22 => {
                let (package, certificate, now_s): (ByteBuf, ByteBuf, u64) = read(arguments)?;
                let (account, device, suite, address, expires_at_s) =
                    groups::inspect_key_package(&self.provider, &package, &certificate, now_s)?;
                let certificate = certificate_fields(&Certificate::verify(&certificate)?);
                answer((account, device, suite, address, expires_at_s, certificate))
            }
            // Groups
            30 => {
                let (suite, context, address, certificate, now_s): (u16, ContextFields, ByteBuf, ByteBuf, u64) = read(arguments)?;
                let group = groups::create(&self.provider, suite, &context, &address, &certificate, now_s)?;
                let group_id = group.group_id().as_slice().to_vec();
                self.groups.insert(group_id.clone(), group);
                answer(ByteBuf::from(group_id))
            }
            31 => {
                let (group_id,): (ByteBuf,) = read(arguments)?;
                answer(self.on_group(&group_id, |_, group| groups::info(group))?)
            }
            32 => {
                type Leaf = (bool, Option<ByteBuf>, Option<ByteBuf>);
                type Arguments = (ByteBuf, u8, Vec<ByteBuf>, Vec<Pair>, Leaf, Option<ContextFields>, Known, u64);
                let (group_id, k, adds, removes, (update, address, certificate), context, known, now_s): Arguments = read(arguments)?;
                let wanted = Wanted { adds, removes, update, address, certificate, context };
                answer(self.on_group(&group_id, |provider, group| groups::stage(provider, group, k, &wanted, &known, now_s))?)
            }
            33 => {
                let (group_id, k): (ByteBuf, u8) = read(arguments)?;
                answer(self.on_group(&group_id, |provider, group| groups::restage(provider, group, k))?)
            }
            34 => {
                let (group_id, now_s): (ByteBuf, u64) = read(arguments)?;
                answer(self.on_group(&group_id, |provider, group| groups::confirm(provider, group, &Known::new(), now_s))?)
            }
            35 => {
                let (group_id,): (ByteBuf,) = read(arguments)?;
                answer(self.on_group(&group_id, groups::drop_pending)?)
            }
            36 => {
                let (group_id, epoch, k): (ByteBuf, Option<u64>, u8) = read(arguments)?;
                let current = self.current_epoch(&group_id)?;
                answer(groups::gate_name(&self.provider, &group_id, epoch.unwrap_or(current), k)?)
            }
            37 => {
                let (group_id, k, value, known, now_s): (ByteBuf, u8, ByteBuf, Known, u64) = read(arguments)?;
                answer(self.apply(&group_id, k, &value, &known, now_s)?)
            }
            38 => {
                let (group_id, contents): (ByteBuf, Vec<ByteBuf>) = read(arguments)?;
                answer(self.on_group(&group_id, |provider, group| groups::protect(provider, group, &contents))?)
            }
            39 => {
                let (group_id, bodies, now_s): (ByteBuf, Vec<ByteBuf>, u64) = read(arguments)?;
                clock::set(now_s);
                answer(self.receive(&group_id, &bodies)?)
            }
            40 => {
                let (body,): (ByteBuf,) = read(arguments)?;
                answer(groups::open_from_stranger_mail(&self.provider, &body)?)
            }
            41 => {
                let (body, known, now_s): (ByteBuf, Known, u64) = read(arguments)?;
                clock::set(now_s);
                let (group, joined) = groups::join(&self.provider, &body, &known, now_s)?;
                self.groups.insert(group.group_id().as_slice().to_vec(), group);
                answer(joined)
            }
            42 => {
                let (group_id, peer, package, now_s): (ByteBuf, Pair, ByteBuf, u64) = read(arguments)?;
                answer(self.on_group(&group_id, |provider, group| groups::rejoin_request(provider, group, &peer, &package, now_s))?)
            }
            43 => {
                let (group_id, payload, certificate, now_s): (ByteBuf, ByteBuf, ByteBuf, u64) = read(arguments)?;
                answer(self.on_group(&group_id, |provider, group| {
                    groups::check_rejoin(provider, group, &payload, &certificate, now_s)
                })?)
            }
            44 => {
                let (group_id, label, context, length): (ByteBuf, String, ByteBuf, u32) = read(arguments)?;
                answer(self.on_group(&group_id, |provider, group| groups::export(provider, group, &label, &context, length as usize))?)
            }
            45 => {
                let (group_id,): (ByteBuf,) = read(arguments)?;
                self.groups.remove(&group_id[..]);
                storage.clear(&group_id);
                answer(())
            }
            46 => {
                let (size,): (u32,) = read(arguments)?;
                answer(envelope::padded_size(size as usize))
            }
            // Blobs
            47 => {
                let (key, size, index, piece): (ByteBuf, u32, u32, ByteBuf) = read(arguments)?;
                answer(ByteBuf::from(blob::seal(&key, size, index, piece.into_vec())?))
            }
            48 => {
                let (key, size, index, sealed): (ByteBuf, u32, u32, ByteBuf) = read(arguments)?;
                answer(ByteBuf::from(blob::open(&key, size, index, sealed.into_vec())?))
            }
            _ => Err(Kind::Malformed.because("no such call")),
        }
    }

    fn call(&mut self, number: u32, arguments: &[u8]) -> Vec<u8> {
        match self.dispatch(number, arguments) {
            Ok(result) => {
                self.provider.storage.commit();
                let deltas: Vec<Delta> = self.provider.storage.take_deltas();
                let mut reply = vec![0x93, 0];
                reply.extend(result);
                reply.extend(encode(&deltas));
                reply
            }
            Err(Error { kind, text }) => {
                self.provider.storage.roll_back();
                self.provider.storage.take_deltas();
                encode(&(kind as u8, text))
            }
        }
    }
}

fn read<T: DeserializeOwned>(arguments: &[u8]) -> Result<T> {
    decode(arguments).map_err(|_| Kind::Malformed.because("the arguments are not those of this call"))
}

fn answer(result: impl Serialize) -> Result<Vec<u8>> {
    Ok(encode(&result))
}

fn certificate_fields(certificate: &Certificate) -> (ByteBuf, u64, ByteBuf, Vec<DeviceFields>) {
    (
        identity::buf(&certificate.account),
        certificate.counter,
        identity::buf(&certificate.account_key),
        certificate.devices.iter().map(|device| device.fields()).collect(),
    )
}

/// What the host writes to and reads from.
#[derive(Default)]
struct Boundary {
    core: Core,
    arguments: Vec<u8>,
    answer: Vec<u8>,
}

thread_local! {
    static BOUNDARY: RefCell<Boundary> = RefCell::default();
}

/// Room for *length* bytes of arguments; where it is changes when it grows.
#[unsafe(no_mangle)]
pub extern "C" fn taube_buffer(length: u32) -> *mut u8 {
    BOUNDARY.with_borrow_mut(|boundary| {
        boundary.arguments.resize(length as usize, 0);
        boundary.arguments.as_mut_ptr()
    })
}

/// One call; see the head of this file.
#[unsafe(no_mangle)]
pub extern "C" fn taube_call(number: u32) -> u64 {
    BOUNDARY.with_borrow_mut(|boundary| {
        let arguments = Zeroizing::new(std::mem::take(&mut boundary.arguments));
        boundary.answer.zeroize();
        boundary.answer = boundary.core.call(number, &arguments);
        let pointer = boundary.answer.as_ptr() as usize as u64;
        pointer << 32 | boundary.answer.len() as u64
    })
}
