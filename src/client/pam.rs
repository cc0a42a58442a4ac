//! Asks the system's PAM, under the service name `pgbouncer`, whether a password is the user's.
//!
//! The conversation answers what is asked without echo with the password and nothing else, as PgBouncer's
//! `pam_conversation` does. It blocks: modules read files, ask servers and sleep.

/// PgBouncer's PGBOUNCER_PAM_SERVICE in `include/pam.h`.
#[cfg(feature = "pam")]
const SERVICE: &str = "pgbouncer";

/// Whether PAM can be asked.
pub const IS_BUILT: bool = cfg!(feature = "pam");

/// Asks; `from` is the client's address. Blocks, perhaps for seconds.
///
/// Errors: no, or nobody could be asked; the text is for the log.
#[cfg(feature = "pam")]
pub fn ask(user: &str, password: &str, from: &str) -> Result<(), String> {
    use nonstick::items::ItemsMut;
    use nonstick::{AuthnFlags, ConversationAdapter, PamShared, Transaction, TransactionBuilder};

    let failed = |step: &'static str| move |error: nonstick::ErrorCode| format!("{step} failed: {error}");
    let conversation = Answers { password: password.to_owned().into() }.into_conversation();
    let mut transaction = TransactionBuilder::new_with_service(SERVICE)
        .username(user)
        .build(conversation)
        .map_err(failed("pam_start()"))?;
    transaction.items_mut().set_remote_host(Some(from.as_ref())).map_err(failed("pam_set_item()"))?;
    transaction.authenticate(AuthnFlags::SILENT).map_err(failed("pam_authenticate()"))?;
    // Is the account still open, and at this hour?
    transaction.account_management(AuthnFlags::SILENT).map_err(failed("pam_acct_mgmt()"))
}

/// This build has no PAM.
///
/// Errors: always.
#[cfg(not(feature = "pam"))]
pub fn ask(_user: &str, _password: &str, _from: &str) -> Result<(), String> {
    Err("this build has no PAM".to_owned())
}

#[cfg(feature = "pam")]
struct Answers {
    password: zeroize::Zeroizing<String>,
}

#[cfg(feature = "pam")]
impl nonstick::ConversationAdapter for Answers {
    fn prompt(&self, _: impl AsRef<std::ffi::OsStr>) -> nonstick::Result<std::ffi::OsString> {
        Err(nonstick::ErrorCode::ConversationError)
    }

    fn masked_prompt(&self, _: impl AsRef<std::ffi::OsStr>) -> nonstick::Result<std::ffi::OsString> {
        Ok(self.password.as_str().into())
    }

    fn error_msg(&self, message: impl AsRef<std::ffi::OsStr>) {
        tracing::warn!("PAM error: {}", super::line::Printable(message.as_ref().display()));
    }

    fn info_msg(&self, message: impl AsRef<std::ffi::OsStr>) {
        tracing::debug!("PAM: {}", super::line::Printable(message.as_ref().display()));
    }
}
