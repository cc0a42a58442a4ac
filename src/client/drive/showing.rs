//! The driver's part in a handover: it shows its conversation to who asks for it.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::{Driver, Pace};
use crate::client::export::{Exported, Standing};
use crate::net::Stream;
use crate::session::portable::Packer;

impl Driver {
    /// Answers who asks for the conversation's sockets.
    pub(super) fn show_who_asks(&self, pace: Pace) {
        for asker in self.worker.exports.asked(self.claim.caller().id()) {
            // Nobody may wait for it any more. Without a file descriptor left there is no answer.
            if let Ok(Some(exported)) = self.export(pace) {
                let _ = asker.send(exported);
            }
        }
    }

    fn export(&self, pace: Pace) -> io::Result<Option<Exported>> {
        let Some(client) = self.client.as_ref().map(Stream::share).transpose()?.flatten() else {
            return Ok(None);
        };
        let (now, mut relay) = (Instant::now(), Packer::default());
        let packed = self.relay.pack(now, &mut relay);
        let server = match &self.lease {
            None => None,
            Some(lease) => {
                let Some(socket) = lease.stream.share()? else { return Ok(None) };
                let mut facts = Packer::default();
                lease.pack(now, &mut facts);
                Some((socket, facts.finish()))
            }
        };
        Ok(Some(Exported {
            standing: if packed && pace == Pace::Still { Standing::Still } else { Standing::Moving },
            client,
            server,
            relay: relay.finish(),
            is_plain: self.relay.is_plain(),
            reported: Arc::clone(&self.relay.parameters().reported),
        }))
    }
}
