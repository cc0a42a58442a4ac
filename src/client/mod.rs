//! One client: start-up, login, conversation.
