//! The endpoints of the original agent, each mapped onto commands of the bus.

mod act;
mod read;
mod seed;
mod shapes;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::Response;
use axum::middleware::map_response;
use axum::routing::get;

use crate::http::answer;
use crate::http::count::Class;
use crate::state::Gateway;

/// All of them.
pub(crate) fn router(gateway: Arc<Gateway>) -> Router {
    let polled = Router::new()
        .route("/hostname", get(read::hostname))
        .route("/status", get(read::status))
        .route("/available-snapshots-local", get(read::available_snapshots_local))
        .route("/available-snapshots", get(read::available_snapshots))
        .route("/lvs-snapshots", get(read::lvs_snapshots))
        .route("/lvs", get(read::lvs))
        .route("/lvs/{pattern}", get(read::lvs_of))
        .route("/lv", get(read::lv))
        .route("/lv/{name}", get(read::lv_of))
        .route("/mount", get(read::mount))
        .route("/du", get(read::du))
        .route("/mysql-status", get(read::mysql_status))
        .route("/mysql-port", get(read::mysql_port))
        .route("/mysql-du", get(read::mysql_du))
        .route("/mysql-datadir-available-space", get(read::mysql_space))
        .route("/mysql-error-log-tail", get(read::mysql_error_log))
        .route("/mysql-relay-log-index-file", get(read::relay_index))
        .route("/mysql-relay-log-files", get(read::relay_files))
        .route("/mysql-relay-log-end-coordinates", get(read::relay_end));
    let acting = Router::new()
        .route("/mountlv", get(act::mount_lv))
        .route("/umount", get(act::umount))
        .route("/removelv", get(act::remove_lv))
        .route("/create-snapshot", get(act::create_snapshot))
        .route("/mysql-stop", get(act::mysql_stop))
        .route("/mysql-start", get(act::mysql_start))
        .route("/delete-mysql-datadir", get(act::delete_datadir))
        .route("/post-copy", get(act::post_copy))
        .route("/custom-commands/{name}", get(act::custom));
    let seeding = Router::new()
        .route("/receive-mysql-seed-data/{seed}", get(seed::receive))
        .route("/send-mysql-seed-data/{target}/{seed}", get(seed::send))
        .route("/seed-command-completed/{seed}", get(seed::completed))
        .route("/seed-command-succeeded/{seed}", get(seed::succeeded))
        .route("/abort-seed/{seed}", get(seed::abort));
    Router::new()
        .nest("/api", of(Class::Read, polled).merge(of(Class::Act, acting)).merge(of(Class::Seed, seeding)))
        .fallback(async || answer::no_path())
        .with_state(gateway)
}

/// The same, whose answers say of which class they are.
fn of(class: Class, endpoints: Router<Arc<Gateway>>) -> Router<Arc<Gateway>> {
    endpoints.route_layer(map_response(move |mut response: Response<Body>| async move {
        response.extensions_mut().insert(class);
        response
    }))
}
