//! How etcd is reached.

use crate::model::settings::settings;
use crate::model::{HealthTarget, Invalid, Scheme};

settings! {
    /// How etcd is reached.
    pub struct Config {
        /// Where its members serve clients, such as http://10.0.0.1:2379; when one does not answer, the next is asked.
        endpoints: Vec<String> = Vec::new();
        /// What all keys begin with. Meshes with the same prefix are one.
        prefix: String = "/mesh/v1".to_owned();
        /// The user, where etcd asks for one.
        username: String = String::new();
        /// The file with the user's password, which only its owner may read; read again whenever etcd wants it.
        password_file: String = String::new();
        /// The certificates of those who may have signed etcd's (PEM). Empty: those every browser trusts.
        ca_file: String = String::new();
        /// The mesh's own certificate (PEM), where etcd asks for one.
        cert_file: String = String::new();
        /// The key of that certificate (PEM), which only its owner may read.
        key_file: String = String::new();
    }
}

impl Config {
    /// The endpoints, read.
    ///
    /// # Errors
    /// [`Invalid`] naming the first that is not acceptable.
    pub(super) fn targets(&self) -> Result<Vec<HealthTarget>, Invalid> {
        let read = |url: &String| {
            let named =
                |fault: Invalid| Invalid::new("registry.etcd.endpoints", format!("{}: {}", crate::model::shown_url(url), fault.why));
            let target = HealthTarget::new(url).map_err(named)?;
            Scheme::supported(target.scheme).map_err(named)?;
            if target.endpoint.as_str() == "/" { Ok(target) } else { Err(named(Invalid::new("", "has a path; use http://host:port"))) }
        };
        self.endpoints.iter().map(read).collect()
    }

    /// Checks what the settings mean together.
    ///
    /// # Errors
    /// [`Invalid`] naming the first that is not acceptable.
    pub fn check_together(&self) -> Result<(), Invalid> {
        let fault = |key: &str, why: &str| Err(Invalid::new(format!("registry.etcd.{key}"), why.to_owned()));
        if self.targets()?.is_empty() {
            return fault("endpoints", "names nobody; use [\"http://host:2379\"]");
        }
        if !self.prefix.starts_with('/') || self.prefix.ends_with('/') || self.prefix.len() > 256 {
            return fault("prefix", "has to begin with / and not to end with it, and to have at most 256 bytes");
        }
        if self.username.is_empty() != self.password_file.is_empty() {
            return fault("username", "goes with passwordFile: name both or neither");
        }
        if self.cert_file.is_empty() != self.key_file.is_empty() {
            return fault("certFile", "goes with keyFile: name both or neither");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_go_together_is_named() {
        let good = Config { endpoints: vec!["http://127.0.0.1:2379".to_owned()], ..Config::default() };
        assert_eq!(good.check_together(), Ok(()));
        let changed = |change: fn(&mut Config)| {
            let mut config = good.clone();
            change(&mut config);
            config.check_together().expect_err("a mistake").to_string()
        };
        assert!(changed(|config| config.endpoints.clear()).contains("names nobody"));
        assert!(
            changed(|config| config.endpoints.push("127.0.0.1:2379".to_owned())).contains("registry.etcd.endpoints: \"127.0.0.1:2379\"")
        );
        assert!(changed(|config| config.endpoints.push("http://h:1/x".to_owned())).contains("has a path"));
        assert!(changed(|config| config.prefix = "mesh".to_owned()).contains("registry.etcd.prefix"));
        assert!(changed(|config| config.username = "u".to_owned()).contains("passwordFile"));
        assert!(changed(|config| config.key_file = "k".to_owned()).contains("certFile"));
    }
}
