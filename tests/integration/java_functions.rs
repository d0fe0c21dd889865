//! How Java functions become one jar with the shim: from sources, from jars, by Maven, and with what a build script of
//! Gradle lists.

use std::path::Path;

use crate::harness::Setup;
use crate::java_build::{build, built, wrapper};

#[test]
fn functions_are_built_into_the_jar_of_the_reference_from_sources_and_from_jars() {
    if wrapper().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let source = "package f; import io.nuclio.*;\npublic class Main implements EventHandler {\n\
        public Response handleEvent(Context context, Event event) {\n\
        return new Response().setBody(new java.util.Scanner(Main.class.getResourceAsStream(\"/text.txt\")).next() + Part.TEXT);\n}\n}\n";
    write("function/src/main/java/f/Main.java", source);
    write(
        "function/src/main/java/f/Part.java",
        "package f; class Part { static final String TEXT = \"ed\"; }",
    );
    write("function/src/main/resources/text.txt", "merg");
    let from_sources = folder.path().join("from-sources.jar");
    built(&folder.path().join("function"), &from_sources).unwrap();
    // What has been built, shim and all, is a jar as another one may be; so is a folder that holds nothing else.
    std::fs::create_dir_all(folder.path().join("again/src/main/java")).unwrap();
    std::fs::copy(&from_sources, folder.path().join("again/src/main/java/any.jar")).unwrap();
    let from_jar = folder.path().join("from-jar.jar");
    built(&folder.path().join("again"), &from_jar).unwrap();
    for jar in [&from_sources, &from_jar] {
        let setup = Setup::new("java", "any:f.Main").env("NUCLIO_WRAPPER_JAR", &jar.display().to_string());
        let processor = setup.start();
        assert_eq!(processor.get("/").text(), "merged");
        processor
            .stdout
            .wait_for("the protocol", |line| line.contains("\"protocol\":2") || line.contains("protocol 2"));
    }
    write("bad/Main.java", "class Main { int wrong = \"text\"; }");
    let out = folder.path().join("bad.jar");
    let said = built(&folder.path().join("bad"), &out).unwrap_err();
    assert!(said.contains("incompatible types") && !out.exists(), "{said}");
    let said = built(&folder.path().join("absent"), &out).unwrap_err();
    assert!(said.contains("absent is no folder"), "{said}");
}

#[test]
fn a_function_with_a_library_of_its_own_is_built_by_maven_and_answers() {
    if wrapper().is_none() {
        return;
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/java/maven");
    let out = tempfile::tempdir().unwrap();
    let jar = out.path().join("out.jar");
    if !fetched(built(Path::new(folder), &jar)) {
        return;
    }
    let processor =
        Setup::new("java", "example.Sum").env("NUCLIO_WRAPPER_JAR", &jar.display().to_string()).start();
    let answer = processor.post("/", "[1, 2, 39]");
    assert_eq!(
        (answer.text().as_str(), answer.header("Content-Type")),
        ("{\"sum\":42.0}", Some("application/json"))
    );
}

/// Whether it was built. Maven may not reach what it has to fetch, which is said; anything else that fails does so here.
fn fetched(outcome: Result<(), String>) -> bool {
    let Err(said) = outcome else { return true };
    let unreachable = ["there is no mvn", "Could not transfer", "could not be resolved", "Unknown host"];
    assert!(unreachable.iter().any(|text| said.contains(text)), "{said}");
    println!("skipped: Maven cannot build: {}", said.lines().next().unwrap_or_default());
    false
}

/// As `nuctl` writes it.
const GRADLE: &str = "plugins {
  id 'com.github.johnrengelman.shadow' version '5.2.0'
  id 'java'
}

repositories {
    mavenCentral()
}

dependencies {
    // a library
    compile group: 'com.google.code.gson', name: 'gson', version: '2.8.2'
    compile files('./nuclio-sdk-java-1.1.0.jar')
    MORE
}

shadowJar {
   baseName = 'user-handler'
   classifier = null
}

task userHandler(dependsOn: shadowJar)
";

#[test]
fn dependencies_of_a_gradle_script_come_with_the_function_and_what_only_gradle_can_read_is_named() {
    if wrapper().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let jar = folder.path().join("out.jar");
    let function = folder.path().join("function");
    std::fs::create_dir_all(function.join("src/main/java")).unwrap();
    let source = "import io.nuclio.*;\npublic class Main implements EventHandler {\n\
        public Response handleEvent(Context context, Event event) {\n\
        return new Response().setBody(new com.google.gson.Gson().toJson(new int[] {1, 2}));\n}\n}\n";
    std::fs::write(function.join("src/main/java/Main.java"), source).unwrap();
    for (more, named) in [
        ("implementation project(':other')", "implementation project(':other')"),
        ("api \"a:b:${version}\"", "a:b:${version}"),
        ("compileOnly 'a:b:1'", "compileOnly 'a:b:1'"),
        ("implementation('a:b:1') {\n exclude group: 'c'\n }", "implementation('a:b:1') {"),
    ] {
        std::fs::write(function.join("build.gradle"), GRADLE.replace("MORE", more)).unwrap();
        let said = built(&function, &jar).unwrap_err();
        let texts = ["build.gradle: cannot read", named, "'group:name:version'", "pom.xml"];
        assert!(texts.iter().all(|text| said.contains(text)), "{said}");
    }
    let plain = "testImplementation 'no.such:thing:1'";
    std::fs::write(function.join("build.gradle"), GRADLE.replace("MORE", plain)).unwrap();
    if !fetched(built(&function, &jar)) {
        return;
    }
    let processor = Setup::new("java", "Main").env("NUCLIO_WRAPPER_JAR", &jar.display().to_string()).start();
    assert_eq!(processor.get("/").text(), "[1,2]");
}

#[test]
fn java_functions_are_compiled_for_the_java_of_function_images_unless_another_is_said() {
    if wrapper().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("Main.java");
    std::fs::write(
        &source,
        "class Main { String text(Object o) { return o instanceof String s ? s : \"\"; } }",
    )
    .unwrap();
    let said = built(&source, &folder.path().join("out.jar")).unwrap_err();
    assert!(said.contains("for Java 11 (NUCLIO_BUILD_JAVA_RELEASE"), "{said}");
    let mut newer = build(&[source.to_str().unwrap(), "-o", folder.path().join("out.jar").to_str().unwrap()]);
    let output = newer.env("NUCLIO_BUILD_JAVA_RELEASE", "17").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || said.contains("release version 17 not supported"), "{said}");
}
