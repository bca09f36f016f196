//! Resources in the form that a proxy takes.
//!
//! Pure. gRPC libraries read certificates by the bootstrap's `certificate_providers` and are told
//! the name of one. Envoy refuses clusters that say so: it is told the names of secrets instead,
//! which its own file holds, or the SDS server that it names (`sidestep bootstrap envoy` writes
//! them). Nothing else differs, and a cluster never becomes less strict.

// Our clusters say it to old gRPC runtimes in deprecated fields too.
#![allow(deprecated)]

use sidestep_proto::resource::ResourceType;
use sidestep_proto::wire::core::{TransportSocket, transport_socket::ConfigType};
use sidestep_proto::wire::matcher::{StringMatcher, string_matcher::MatchPattern};
use sidestep_proto::wire::tls::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext,
    SdsSecretConfig, SubjectAltNameMatcher, UpstreamTlsContext,
    common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
    subject_alt_name_matcher::SanType,
};
use sidestep_proto::wire::{Any, cluster::Cluster};

/// The protocol of all our calls, as TLS names it.
const ALPN: &str = "h2";

/// What a proxy is told instead of `any`; `None` where it takes `any` as it is.
pub(crate) fn form(any: &Any) -> Option<Any> {
    if any.type_url != ResourceType::Cluster.type_url() {
        return None;
    }
    let mut cluster: Cluster = any.unpack().ok()?;
    let socket = with_secrets(cluster.transport_socket.as_ref()?)?;
    cluster.transport_socket = Some(socket);
    Some(Any::pack(&cluster))
}

fn with_secrets(socket: &TransportSocket) -> Option<TransportSocket> {
    let Some(ConfigType::TypedConfig(config)) = &socket.config_type else {
        return None;
    };
    let mut context: UpstreamTlsContext = config.unpack().ok()?;
    let common = context.common_tls_context.take()?;
    context.common_tls_context = Some(common_with_secrets(common)?);
    Some(TransportSocket {
        name: socket.name.clone(),
        config_type: Some(ConfigType::TypedConfig(Any::pack(&context))),
    })
}

/// `None` if no certificate provider is mentioned.
fn common_with_secrets(common: CommonTlsContext) -> Option<CommonTlsContext> {
    let roots = common
        .validation_context_type
        .as_ref()
        .and_then(validation_with_secret);
    let identity = common.tls_certificate_provider_instance;
    if roots.is_none() && identity.is_none() {
        return None;
    }
    let alpn_protocols = match common.alpn_protocols.is_empty() {
        true => vec![ALPN.to_owned()],
        false => common.alpn_protocols,
    };
    Some(CommonTlsContext {
        tls_certificate_provider_instance: None,
        tls_certificate_certificate_provider_instance: None,
        tls_certificate_sds_secret_configs: match &identity {
            Some(identity) => vec![certificate(identity)],
            None => common.tls_certificate_sds_secret_configs,
        },
        // What is said in another way than by a provider stays: it may not become less.
        validation_context_type: roots.or(common.validation_context_type),
        alpn_protocols,
        ..common
    })
}

fn validation_with_secret(validation: &ValidationContextType) -> Option<ValidationContextType> {
    let context = match validation {
        ValidationContextType::ValidationContext(context) => context,
        ValidationContextType::CombinedValidationContext(combined) => {
            combined.default_validation_context.as_ref()?
        }
        _ => return None,
    };
    let roots = context.ca_certificate_provider_instance.as_ref()?;
    let secret = SdsSecretConfig {
        name: format!("{}-roots", secret_name(roots)),
        sds_config: None,
    };
    let mut names = context.match_typed_subject_alt_names.clone();
    names.extend(
        context
            .match_subject_alt_names
            .iter()
            .flat_map(typed_matchers),
    );
    let context = CertificateValidationContext {
        ca_certificate_provider_instance: None,
        match_typed_subject_alt_names: names,
        match_subject_alt_names: Vec::new(),
        ..context.clone()
    };
    let combined = CombinedCertificateValidationContext {
        default_validation_context: Some(context),
        validation_context_sds_secret_config: Some(secret),
        ..CombinedCertificateValidationContext::default()
    };
    Some(ValidationContextType::CombinedValidationContext(combined))
}

fn certificate(instance: &CertificateProviderPluginInstance) -> SdsSecretConfig {
    SdsSecretConfig {
        name: secret_name(instance),
        sds_config: None,
    }
}

/// The secret that stands for a provider instance and a certificate of it.
fn secret_name(instance: &CertificateProviderPluginInstance) -> String {
    let CertificateProviderPluginInstance {
        instance_name,
        certificate_name,
    } = instance;
    match certificate_name.is_empty() {
        true => instance_name.clone(),
        false => format!("{instance_name}/{certificate_name}"),
    }
}

/// gRPC compares with names of any kind, Envoy with those of one. A SPIFFE id is a URI and nothing
/// else.
fn typed_matchers(matcher: &StringMatcher) -> Vec<SubjectAltNameMatcher> {
    let spiffe = match &matcher.match_pattern {
        Some(MatchPattern::Exact(text) | MatchPattern::Prefix(text)) => {
            text.starts_with("spiffe://")
        }
        _ => false,
    };
    let kinds: &[SanType] = match spiffe {
        true => &[SanType::Uri],
        false => &[SanType::Uri, SanType::Dns, SanType::IpAddress],
    };
    let typed = kinds.iter().map(|kind| SubjectAltNameMatcher {
        san_type: *kind as i32,
        matcher: Some(matcher.clone()),
        oid: String::new(),
    });
    typed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidestep_proto::codec;
    use sidestep_proto::resource::{
        CertificateInstance, Cluster as DomainCluster, Resource, StringMatcher, Text, UpstreamTls,
    };

    fn cluster(tls: Option<UpstreamTls>) -> Any {
        codec::encode(&Resource::Cluster(std::sync::Arc::new(DomainCluster {
            tls,
            max_requests: 7,
            ..DomainCluster::eds("greeter")
        })))
    }

    fn strict() -> Any {
        let instance = || CertificateInstance {
            instance: "default".to_owned(),
            certificate_name: String::new(),
        };
        let id = "spiffe://prod.example/sa/greeter".to_owned();
        cluster(Some(UpstreamTls {
            roots: instance(),
            identity: Some(instance()),
            sans: vec![StringMatcher::Exact(Text::exact(id))],
        }))
    }

    fn context(any: &Any) -> CommonTlsContext {
        let cluster: Cluster = any.unpack().expect("a cluster");
        match cluster.transport_socket.and_then(|s| s.config_type) {
            Some(ConfigType::TypedConfig(config)) => {
                let context: UpstreamTlsContext = config.unpack().expect("TLS");
                context.common_tls_context.expect("what both sides have")
            }
            None => panic!("no transport socket"),
        }
    }

    #[test]
    fn secrets_stand_for_certificate_providers_and_names_stay() {
        let common = context(&form(&strict()).expect("another form"));
        assert_eq!(common.tls_certificate_sds_secret_configs[0].name, "default");
        assert_eq!(common.alpn_protocols, ["h2"]);
        let Some(ValidationContextType::CombinedValidationContext(combined)) =
            common.validation_context_type
        else {
            panic!("no validation");
        };
        let roots = combined.validation_context_sds_secret_config;
        assert_eq!(roots.expect("roots").name, "default-roots");
        let names = combined
            .default_validation_context
            .expect("what is expected of the peer")
            .match_typed_subject_alt_names;
        assert_eq!(names.len(), 1, "one kind of name: {names:?}");
        assert_eq!(names[0].san_type, SanType::Uri as i32);
        let expected = MatchPattern::Exact("spiffe://prod.example/sa/greeter".to_owned());
        let pattern = names[0].matcher.as_ref().expect("a matcher");
        assert_eq!(pattern.match_pattern, Some(expected));
    }

    #[test]
    fn roots_that_no_provider_gives_stay() {
        let validation = ValidationContextType::ValidationContext(CertificateValidationContext {
            max_verify_depth: Some(3),
            ..CertificateValidationContext::default()
        });
        let common = CommonTlsContext {
            tls_certificate_provider_instance: Some(CertificateProviderPluginInstance::default()),
            validation_context_type: Some(validation.clone()),
            ..CommonTlsContext::default()
        };
        let proxy = common_with_secrets(common).expect("another form");
        assert_eq!(proxy.validation_context_type, Some(validation));
    }

    #[test]
    fn nothing_but_the_transport_socket_differs() {
        let strip = |any: &Any| {
            let mut cluster: Cluster = any.unpack().expect("a cluster");
            cluster.transport_socket = None;
            cluster
        };
        let proxy = form(&strict()).expect("another form");
        assert_eq!(strip(&proxy), strip(&strict()));
    }

    #[test]
    fn what_mentions_no_provider_has_no_other_form() {
        assert!(form(&cluster(None)).is_none());
        let secrets = form(&strict()).expect("another form");
        assert!(form(&secrets).is_none(), "it is a proxy's already");
        let routes = Any {
            type_url: ResourceType::RouteConfiguration.type_url().to_owned(),
            ..strict()
        };
        assert!(form(&routes).is_none());
    }
}
