//! Wiring, workers, signals, reload and the phases of the process's life.
