//! Who is let in and what is kept secret: other users, web pages, impostors, and clients that abuse HTTP.

mod guard;
mod http_abuse;
mod imposter;
mod mallory;
mod other_users;
mod secrets;
