//! The page, in a real Chromium.

mod acting;
mod browser;
mod closed;
mod fleet;
mod hostile;
mod lines;
mod site;
