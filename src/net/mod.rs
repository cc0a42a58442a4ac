//! The only module that names `tokio::net` and `rustls`.
