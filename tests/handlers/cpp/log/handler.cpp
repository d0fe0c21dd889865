#include <nuclio_handler.hpp>

struct Log : nuclio::Handler {
    nuclio::Response handle(nuclio::Context &context, const nuclio::Event &) override {
        context.debug("d");
        context.info("i", {{"number", 1}, {"text", "grüß"}});
        context.warn("w");
        context.error("e");
        return "logged";
    }
};

NUCLIO_EXPORT_HANDLER(Log)
