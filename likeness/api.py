"""All calls of the service as methods, shared by both clients."""

from likeness import face_calls, gallery_calls, migration_calls, photo_calls
from likeness.operations import Operation, PagedOperation


class Api:
    """Each method's arguments and answer are those of the function that it names.

    In ``Client`` a method gives its result, in ``AsyncClient`` an awaitable of it. ``galleries``, ``persons``,
    ``faces``, ``pending_persons`` and ``export`` give iterators, which ask for a page when they come to it.
    """

    live = Operation("live", photo_calls.live)
    ready = Operation("ready", photo_calls.ready)
    info = Operation("info", photo_calls.info)
    metrics = Operation("metrics", photo_calls.metrics)

    detect = Operation("detect", photo_calls.detect)
    embed = Operation("embed", photo_calls.embed)
    verify = Operation("verify", photo_calls.verify)
    compare = Operation("compare", photo_calls.compare)

    galleries = PagedOperation("list_galleries", gallery_calls.list_galleries)
    put_gallery = Operation("put_gallery", gallery_calls.put_gallery)
    gallery = Operation("get_gallery", gallery_calls.get_gallery)
    delete_gallery = Operation("delete_gallery", gallery_calls.delete_gallery)
    report = Operation("report", gallery_calls.report)

    persons = PagedOperation("list_persons", gallery_calls.list_persons)
    put_person = Operation("put_person", gallery_calls.put_person)
    person = Operation("get_person", gallery_calls.get_person)
    patch_person = Operation("patch_person", gallery_calls.patch_person)
    delete_person = Operation("delete_person", gallery_calls.delete_person)

    faces = PagedOperation("list_faces", face_calls.list_faces)
    enrol = Operation("enrol_faces", face_calls.enrol)
    enrol_embeddings = Operation("enrol_faces", face_calls.enrol_embeddings)
    delete_face = Operation("delete_face", face_calls.delete_face)
    verify_person = Operation("verify_person", face_calls.verify_person)
    search = Operation("search", face_calls.search)
    search_embedding = Operation("search", face_calls.search_embedding)

    export = PagedOperation("export_persons", gallery_calls.export_persons)
    import_persons = Operation("import_persons", gallery_calls.import_persons)

    migration = Operation("get_migration", migration_calls.get_migration)
    start_migration = Operation("start_migration", migration_calls.start_migration)
    pending_persons = PagedOperation("list_pending", migration_calls.list_pending)
    cut_over = Operation("cut_over", migration_calls.cut_over)
    roll_back = Operation("roll_back", migration_calls.roll_back)
    finish_migration = Operation("finish_migration", migration_calls.finish_migration)
    abandon_migration = Operation("abandon_migration", migration_calls.abandon_migration)

    request = Operation(None, photo_calls.request)
