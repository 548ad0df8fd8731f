//! The client's web page: used by people in a real Chromium over a real network, and attacked by another user of the
//! machine and by other pages (attacks, row 27).

mod attacks;
mod conversation;
mod page;
