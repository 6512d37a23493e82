//! The standard service `grpc.health.v1.Health`, which follows the readiness of the daemon.

use crate::service::Service;
use agentd_proto::v1::agentd_server::SERVICE_NAME;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::HealthReporter,
};

/// The names of the services whose state is that of the daemon: the whole server, and ours.
const SERVICES: [&str; 2] = ["", SERVICE_NAME];

/// Returns the health service. A task changes its state when the service accepts no further request.
pub(super) async fn follow(service: &Service) -> HealthServer<impl Health> {
    let (reporter, health) = tonic_health::server::health_reporter();
    report(&reporter, ServingStatus::Serving).await;
    let service = service.clone();
    tokio::spawn(async move {
        service.until_stopping().await;
        report(&reporter, ServingStatus::NotServing).await;
    });
    health
}

async fn report(reporter: &HealthReporter, status: ServingStatus) {
    for name in SERVICES {
        reporter.set_service_status(name, status).await;
    }
}
