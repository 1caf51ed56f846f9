//! The node as something that starts with the machine.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::failure::Failure;
use crate::private;
use iris_node::probe::Tools;

const NAME: &str = "iris-node";

/// What can be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Service {
    /// A unit of the user's systemd
    Systemd,
    /// An agent of the user's launchd
    Launchd,
    /// A task of Windows' Task Scheduler that starts when the user logs on
    Windows,
    /// Nothing
    None,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Systemd => "a systemd user unit",
            Self::Launchd => "a launchd agent",
            Self::Windows => "a task of the Task Scheduler",
            Self::None => "nothing",
        })
    }
}

/// A file to write, and what makes the system take notice.
#[derive(Debug)]
pub(super) struct Installation {
    pub(super) path: PathBuf,
    pub(super) text: String,
    steps: Vec<Vec<String>>,
    after: &'static str,
}

impl Service {
    /// Returns what this system has.
    pub(super) fn native() -> Option<Self> {
        match std::env::consts::OS {
            "linux" if Path::new("/run/systemd/system").exists() => Some(Self::Systemd),
            "macos" => Some(Self::Launchd),
            "windows" => Some(Self::Windows),
            _ => None,
        }
    }

    /// Describes how `program` starts with the settings of `file`.
    pub(super) fn installation(
        self,
        program: &Path,
        file: &Path,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Installation>, Failure> {
        let text = |path: &Path| {
            let text = path.to_str().filter(|text| !text.contains(char::is_control));
            text.map(str::to_owned).ok_or_else(|| {
                Failure::files(format!("{} has no name that a service can hold", path.display()))
            })
        };
        let (program, file) = (text(program)?, text(file)?);
        let folder = |name: &str, rest: &str| {
            environment(name)
                .filter(|path| !path.is_empty())
                .map(|path| Path::new(&path).join(rest))
        };
        let home = |rest: &str| {
            let home = folder("HOME", rest).or_else(|| folder("USERPROFILE", rest));
            home.ok_or_else(|| Failure::files("HOME is not set, so no service can be installed"))
        };
        let installation = match self {
            Self::None => return Ok(None),
            Self::Systemd => {
                let units = folder("XDG_CONFIG_HOME", "systemd/user");
                let path = units.map_or_else(|| home(".config/systemd/user"), Ok)?;
                systemd(path.join("iris-node.service"), &program, &file)
            }
            Self::Launchd => {
                launchd(home("Library/LaunchAgents/org.iris.iris-node.plist")?, &program, &file)
            }
            Self::Windows => {
                let path = folder("APPDATA", "iris/iris-node.xml");
                windows(path.map_or_else(|| home("iris-node.xml"), Ok)?, &program, &file)
            }
        };
        Ok(Some(installation))
    }
}

impl Installation {
    /// Writes the file and tells the system. Where that cannot be done, says what is left to do.
    pub(super) fn install(&self) -> Result<(), Failure> {
        let failed = |error| Failure::files(format!("{}: {error}", self.path.display()));
        private::write(&self.path, &self.text).map_err(failed)?;
        println!("The service is described in {}.", self.path.display());
        let tools = Tools::installed();
        for (at, step) in self.steps.iter().enumerate() {
            let arguments: Vec<_> = step[1..].iter().map(String::as_str).collect();
            if !tools.succeeds(&step[0], &arguments) {
                println!("It could not be started from here. What is left to do:");
                for step in &self.steps[at..] {
                    println!("  {}", shown(step));
                }
                return Ok(());
            }
        }
        println!("It runs now. {}", self.after);
        Ok(())
    }
}

/// Writes a command so that it can be copied.
fn shown(step: &[String]) -> String {
    let quoted = step
        .iter()
        .map(|word| if word.contains(' ') { format!("\"{word}\"") } else { word.clone() });
    quoted.collect::<Vec<_>>().join(" ")
}

fn steps<const N: usize>(steps: [&[&str]; N]) -> Vec<Vec<String>> {
    steps.iter().map(|step| step.iter().map(|word| (*word).to_owned()).collect()).collect()
}

fn systemd(path: PathBuf, program: &str, file: &str) -> Installation {
    // 2, 3 and 5 are mistakes that another start does not mend.
    let text = format!(
        "[Unit]\n\
         Description=Iris node: offers the models on this machine to a network\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         \n\
         [Service]\n\
         ExecStart={program} --config {file}\n\
         Restart=on-failure\n\
         RestartSec=10\n\
         RestartPreventExitStatus=2 3 5\n\
         TimeoutStopSec=90\n\
         KillMode=mixed\n\
         NoNewPrivileges=yes\n\
         UMask=0077\n\
         \n\
         [Install]\n\
         WantedBy=default.target\n",
        program = systemd_word(program),
        file = systemd_word(file),
    );
    Installation {
        path,
        text,
        steps: steps([
            &["systemctl", "--user", "daemon-reload"],
            &["systemctl", "--user", "enable", "--now", "iris-node.service"],
        ]),
        after: "`systemctl --user status iris-node` shows it; `loginctl enable-linger` lets it run \
                while you are logged out.",
    }
}

/// Quotes a word of a command in a unit, where `%`, `$` and `\` mean something.
fn systemd_word(word: &str) -> String {
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", escaped.replace('%', "%%").replace('$', "$$"))
}

fn launchd(path: PathBuf, program: &str, file: &str) -> Installation {
    let text = format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
  <key>Label</key>
  <string>org.iris.iris-node</string>
  <key>ProgramArguments</key>
  <array>
    <string>{program}</string>
    <string>--config</string>
    <string>{file}</string>
  </array>
  <key>RunAtLoad</key>
  <true/>
  <key>KeepAlive</key>
  <dict>
    <key>SuccessfulExit</key>
    <false/>
  </dict>
  <key>ThrottleInterval</key>
  <integer>30</integer>
  <key>Umask</key>
  <integer>63</integer>
</dict>
</plist>
"#,
        program = xml(program),
        file = xml(file),
    );
    let load = ["launchctl", "load", "-w"].map(str::to_owned).into_iter();
    let load = load.chain([path.to_string_lossy().into_owned()]).collect();
    Installation {
        path,
        text,
        steps: vec![load],
        after: "`launchctl list org.iris.iris-node` shows it.",
    }
}

/// A service of Windows has to speak with its manager; the Task Scheduler runs any program.
fn windows(path: PathBuf, program: &str, file: &str) -> Installation {
    let text = format!(
        r#"<?xml version="1.0"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo>
    <Description>Iris node: offers the models on this machine to a network</Description>
  </RegistrationInfo>
  <Triggers>
    <LogonTrigger>
      <Enabled>true</Enabled>
    </LogonTrigger>
  </Triggers>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>true</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>true</StopIfGoingOnBatteries>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <RestartOnFailure>
      <Interval>PT1M</Interval>
      <Count>10</Count>
    </RestartOnFailure>
  </Settings>
  <Actions>
    <Exec>
      <Command>{program}</Command>
      <Arguments>--config "{file}"</Arguments>
    </Exec>
  </Actions>
</Task>
"#,
        program = xml(program),
        file = xml(file),
    );
    let task = path.to_string_lossy().into_owned();
    Installation {
        path,
        text,
        steps: steps([
            &["schtasks", "/Create", "/F", "/TN", NAME, "/XML", &task],
            &["schtasks", "/Run", "/TN", NAME],
        ]),
        after: "`schtasks /Query /TN iris-node` shows it.",
    }
}

fn xml(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(service: Service, program: &str, environment: &[(&str, &str)]) -> Installation {
        let environment = |name: &str| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned())
        };
        let file = Path::new("/home/a b/node.toml");
        service.installation(Path::new(program), file, environment).unwrap().unwrap()
    }

    #[test]
    fn services_start_the_program_with_its_settings_whatever_its_path() {
        let home = [("HOME", "/home/a b")];
        let unit = described(Service::Systemd, r#"/opt/50%/$x\"y"#, &home);
        assert_eq!(unit.path, Path::new("/home/a b/.config/systemd/user/iris-node.service"));
        let start = r#"ExecStart="/opt/50%%/$$x\\\"y" --config "/home/a b/node.toml""#;
        assert!(unit.text.lines().any(|line| line == start), "{}", unit.text);

        let agent = described(Service::Launchd, "/opt/a&b<c>/iris-node", &home);
        assert!(agent.text.contains("<string>/opt/a&amp;b&lt;c&gt;/iris-node</string>"));
        assert!(agent.path.ends_with("Library/LaunchAgents/org.iris.iris-node.plist"));

        let task = described(Service::Windows, "/iris-node.exe", &[("APPDATA", "/data")]);
        assert!(task.text.contains(r#"<Arguments>--config "/home/a b/node.toml"</Arguments>"#));
        assert_eq!(task.path, Path::new("/data/iris/iris-node.xml"));
    }

    #[test]
    fn paths_that_would_break_out_of_a_file_are_refused() {
        let path = Path::new("/opt/a\nExecStartPre=/bin/false");
        let home = |_: &str| Some("/home".to_owned());
        for service in [Service::Systemd, Service::Launchd, Service::Windows] {
            assert!(service.installation(path, Path::new("/a"), home).is_err(), "{service}");
        }
        assert!(Service::Systemd.installation(Path::new("/a"), Path::new("/a"), |_| None).is_err());
        assert!(Service::None.installation(path, path, home).is_err());
    }
}
