//! Counters and histograms per owner, and the roster of who is connected and in what state.
