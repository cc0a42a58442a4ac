//! The relay's part in a handover: what the next process must know to go on with the conversation.
//!
//! Packed is a relay at rest: nothing is left to be sent either way. What has come from the client and waits for a
//! server goes along.

use super::extended::Unnamed;
use super::{Deallocating, Phase, Relay, Resetting, Rules, Values};
use crate::session::portable::{Packer, Unpacker, Unreadable, place};

const DEALLOCATING: [Deallocating; 3] = [Deallocating::No, Deallocating::InBatch, Deallocating::Sent];
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
        let still = self.up.ready() == 0
            && self.up_rest.bytes == 0
            && self.down.is_empty()
            && self.down_rest.bytes == 0
            && self.closing.is_none()
            && self.released.is_none()
            && PHASES.contains(&self.phase);
        if !still {
            return false;
        }
        out.byte(place(&PHASES, &self.phase));
        out.option(self.server.as_deref(), Packer::server);
        out.parameters(&self.parameters);
        out.names(&self.names);
        self.unnamed.pack(out);
        out.byte(place(&DEALLOCATING, &self.deallocating));
        out.byte(place(&RESETTING, &self.resetting));
        out.flag(self.healed);
        out.values(&self.start);
        out.instant(now, self.last_event);
        out.option(self.query_since, |out, since| out.instant(now, since));
        out.option(self.transaction_since, |out, since| out.instant(now, since));
        out.bytes(self.up.undecided());
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
        let start: Values = from.values()?;
        let mut relay = Self::new(rules, parameters, from.instant()?).with_start(start);
        relay.query_since = from.option(Unpacker::instant)?;
        relay.transaction_since = from.option(Unpacker::instant)?;
        let input = from.bytes()?.to_vec();
        (relay.phase, relay.server, relay.names, relay.unnamed) = (phase, server, names, unnamed);
        (relay.deallocating, relay.resetting, relay.healed) = (deallocating, resetting, healed);
        // It is filled in at once, as a whole.
        relay.up.need(input.len());
        Ok(Unpacked { relay, input })
    }
}
