//! Who is let in and what is kept secret: other users, web pages, impostors, and clients that abuse HTTP.

mod attacker;
mod guard;
mod http_abuse;
mod imposter;
mod other_users;
mod secrets;
