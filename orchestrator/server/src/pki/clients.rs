//! Certificates for clients, by signing request: whom they may be for, and making them.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::{CertificateSigningRequestParams, DnType, Issuer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::{ADMINISTRATORS, BACKDATED, NODE_USER, NODES, Pki, SERVERS, client_params};

/// Longest and shortest life of such a certificate.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
const SHORTEST: Duration = Duration::from_secs(600);

/// Whom a signing request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Common name.
    pub name: String,
    /// Organizations.
    pub groups: Vec<String>,
}

impl Subject {
    /// Reads a request in PEM.
    ///
    /// # Errors
    /// One sentence for what is no request, or not signed by its own key.
    pub fn of(csr_pem: &[u8]) -> Result<Self, String> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(csr_pem)
            .map_err(|error| format!("is no PEM: {error}"))?;
        if !matches!(
            pem.label.as_str(),
            "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST"
        ) {
            return Err(format!(
                "PEM block type must be CERTIFICATE REQUEST, not {}",
                pem.label
            ));
        }
        let (_, request) = X509CertificationRequest::from_der(&pem.contents)
            .map_err(|error| format!("is no signing request: {error}"))?;
        let subject = &request.certification_request_info.subject;
        // Texts that can't be read would be left out: better no certificate than one for somebody else.
        let text = |one: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            let text = one.as_str().map(str::to_owned);
            text.map_err(|error| format!("subject: {error}"))
        };
        let names = subject
            .iter_common_name()
            .map(text)
            .collect::<Result<Vec<_>, _>>()?;
        let groups = subject
            .iter_organization()
            .map(text)
            .collect::<Result<Vec<_>, _>>()?;
        match names.as_slice() {
            [name] if !name.is_empty() => Ok(Self {
                name: name.clone(),
                groups,
            }),
            _ => Err("subject: exactly one common name is needed, the user's".to_owned()),
        }
    }

    /// Why nobody gets a certificate for this subject by asking; `None` when it is all right. Servers may speak for any
    /// user, administrators may do anything, and machines become nodes by joining.
    pub fn refusal(&self) -> Option<String> {
        let kept = [ADMINISTRATORS, SERVERS, NODES];
        if let Some(group) = self
            .groups
            .iter()
            .find(|group| kept.contains(&group.as_str()))
        {
            return Some(format!(
                "use of {} signer with {group} group is not allowed",
                waggle_plan::signing_request::CLIENT_SIGNER
            ));
        }
        let node = self.name.starts_with(NODE_USER);
        node.then(|| {
            format!(
                "{:?} is a node's name: nodes get their certificates by joining",
                self.name
            )
        })
    }
}

impl Pki {
    /// Grants a client the certificate that it requests, for the requested subject and nothing else of the request.
    /// `lasts` is what it asks for.
    ///
    /// # Errors
    /// One sentence for a request that is malformed or that nobody may have.
    pub fn sign_client(
        &self,
        csr_pem: &[u8],
        lasts: Option<Duration>,
        now: Timestamp,
    ) -> Result<String, String> {
        let subject = Subject::of(csr_pem)?;
        if let Some(why) = subject.refusal() {
            return Err(why);
        }
        let text = std::str::from_utf8(csr_pem).map_err(|error| error.to_string())?;
        let mut request =
            CertificateSigningRequestParams::from_pem(text).map_err(|error| error.to_string())?;
        let mut groups = subject.groups.iter();
        let first = groups.next().map(String::as_str);
        let mut params =
            client_params(&subject.name, first, now).map_err(|error| error.to_string())?;
        if let Some(second) = groups.next() {
            // The same attribute once more; the library tells attributes apart by how they are named.
            let organization = DnType::CustomDnType(vec![2, 5, 4, 10]);
            params
                .distinguished_name
                .push(organization, second.as_str());
        }
        if groups.next().is_some() {
            return Err(
                "subject: this signer certifies two organizations (groups) at most".to_owned(),
            );
        }
        let lasts = lasts.unwrap_or(LONGEST).clamp(SHORTEST, LONGEST);
        params.not_after = params.not_before + BACKDATED + lasts;
        request.params = params;
        let issuer = Issuer::from_ca_cert_pem(&self.ca_pem, &self.ca_key)
            .map_err(|error| error.to_string())?;
        let signed = request
            .signed_by(&issuer)
            .map_err(|error| error.to_string())?;
        Ok(signed.pem())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, KeyPair};
    use x509_parser::prelude::X509Certificate;

    fn request(name: &str, group: &str) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        let second = DnType::CustomDnType(vec![2, 5, 4, 10]);
        params.distinguished_name.push(second, "second");
        let key = KeyPair::generate().unwrap();
        params.serialize_request(&key).unwrap().pem().unwrap()
    }

    #[test]
    fn clients_get_what_they_ask_for_but_no_power_over_others() {
        let folder = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let pki = Pki::open(folder.path(), &["localhost".to_owned()], now).unwrap();
        let lasts = Some(Duration::from_secs(3600));
        let pem = pki
            .sign_client(request("ann", "devs").as_bytes(), lasts, now)
            .unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&pem.contents).unwrap();
        let subject = certificate.subject();
        let groups: Vec<_> = subject
            .iter_organization()
            .map(|one| one.as_str().unwrap())
            .collect();
        assert_eq!(groups, ["devs", "second"]);
        assert_eq!(
            subject.iter_common_name().next().unwrap().as_str().unwrap(),
            "ann"
        );
        let ends = certificate.validity().not_after.timestamp();
        assert!((now.as_second() + 3500..=now.as_second() + 3600).contains(&ends));
        assert!(!certificate.is_ca());
        for (name, group) in [
            ("ann", "system:masters"),
            ("ann", "system:waggle-servers"),
            ("ann", "system:nodes"),
            ("system:node:node1", "devs"),
        ] {
            let refused = pki.sign_client(request(name, group).as_bytes(), None, now);
            assert!(refused.is_err(), "{name} {group}");
        }
        assert!(Subject::of(b"nothing").is_err());
        let whole = request("ann", "devs");
        let broken = whole.replace("AAA", "BBB");
        assert!(broken == whole || pki.sign_client(broken.as_bytes(), None, now).is_err());
    }
}
