//! The relay's part in a handover: what the next process must know to go on with the conversation.
//!
//! Packed is a relay at rest: nothing is left to be sent either way. What has come from the client and waits for a
//! server goes along.

use super::unnamed::Unnamed;
use super::{Deallocating, Phase, Presence, Relay, Resetting, Rules};
use crate::session::portable::{Packer, Unpacker, Unreadable, place};

const DEALLOCATING: [Deallocating; 4] =
    [Deallocating::No, Deallocating::InBatch, Deallocating::Sent, Deallocating::Executed];
const RESETTING: [Resetting; 3] = [Resetting::No, Resetting::Reported, Resetting::Due];
/// The phases in which a conversation can be handed over.
const PHASES: [Phase; 2] = [Phase::Open, Phase::Refusing];

/// A relay out of another process.
#[derive(Debug)]
pub struct Unpacked {
    /// The relay itself.
    pub relay: Relay,
    /// What the client has sent and nothing is decided about.
    pub input: Vec<u8>,
}

impl Relay {
    /// Writes down all of it, or nothing where it is not at rest.
    pub fn pack(&self, now: std::time::Instant, out: &mut Packer) -> bool {
        let Self { rules: _, up, up_rest, down, down_rest, server, released, .. } = self;
        // That a portal is about a name: without it, the server does not find the name, and says so.
        let Self {
            parameters,
            names,
            unnamed,
            about_name: _,
            phase,
            presence,
            wants_server: _,
            deallocating,
            ..
        } = self;
        let Self { healed, closing, start, resetting, last_words: _, last_event, .. } = self;
        let Self { query_since, transaction_since, .. } = self;
        let still = up.ready() == 0 && up_rest.bytes == 0 && down.is_empty() && down_rest.bytes == 0;
        let stays = closing.is_none() && released.is_none() && *presence == Presence::Here;
        let is_own = server.as_ref().is_some_and(|it| it.is_own());
        if is_own || !(still && stays && PHASES.contains(phase)) {
            return false;
        }
        out.byte(place(&PHASES, phase));
        out.option(server.as_deref(), Packer::server);
        out.parameters(parameters);
        out.names(names);
        unnamed.pack(out);
        out.byte(place(&DEALLOCATING, deallocating));
        out.byte(place(&RESETTING, resetting));
        out.flag(*healed);
        out.values(start);
        out.instant(now, *last_event);
        out.option(*query_since, |out, since| out.instant(now, since));
        out.option(*transaction_since, |out, since| out.instant(now, since));
        out.bytes(up.undecided());
        true
    }

    /// What [`Self::pack`] has written, under the rules of this process.
    ///
    /// Errors: the bytes are none of this layout.
    pub fn unpack(rules: Rules, from: &mut Unpacker<'_>) -> Result<Unpacked, Unreadable> {
        let phase =
            if from.byte()? == place(&PHASES, &Phase::Refusing) { Phase::Refusing } else { Phase::Open };
        let server = from.option(Unpacker::server)?.map(Box::new);
        let parameters = from.parameters()?;
        let names = from.names()?;
        let unnamed = Unnamed::unpack(from)?;
        let (deallocating, resetting) = (from.one_of(&DEALLOCATING)?, from.one_of(&RESETTING)?);
        let healed = from.flag()?;
        let start = from.shared_values()?;
        let mut relay = Self::new(rules, parameters, from.instant()?).with_start(start);
        relay.query_since = from.option(Unpacker::instant)?;
        relay.transaction_since = from.option(Unpacker::instant)?;
        let input = from.bytes()?.to_vec();
        (relay.phase, relay.server, relay.names, relay.unnamed) = (phase, server, names, unnamed);
        (relay.deallocating, relay.resetting, relay.healed) = (deallocating, resetting, healed);
        Ok(Unpacked { relay, input })
    }
}
