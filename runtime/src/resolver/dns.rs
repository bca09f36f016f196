//! Names, by the system's resolver.

use std::io;

use sidestep_proto::resource::Address;

/// All addresses of `host`, in the order in which the system prefers them.
///
/// # Errors
/// The name does not exist or the resolver cannot be asked.
pub async fn lookup(host: &str, port: u16) -> io::Result<Vec<Address>> {
    let mut found: Vec<Address> = Vec::new();
    for address in tokio::net::lookup_host((host, port)).await? {
        let address = Address::Tcp(address);
        if !found.contains(&address) {
            found.push(address);
        }
    }
    if found.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("{host} has no address"),
        ));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_of_every_machine_is_found() {
        let found = lookup("localhost", 80).await.expect("localhost resolves");
        assert!(found.iter().all(|address| match address {
            Address::Tcp(address) => address.ip().is_loopback() && address.port() == 80,
            Address::Unix(_) => false,
        }));
    }

    #[tokio::test]
    async fn a_name_that_cannot_exist_is_an_error() {
        assert!(lookup("no-such-host.invalid", 80).await.is_err());
    }
}
