"""Sections of a DICOM Conformance Statement: numbers, titles and order of PS3.2 Annex N.

The template numbers its sections from N.1; a statement begins with 1, and its annexes are A.A to A.E (N.9 to N.13).
Sections that are repeated for each application entity are written once for each of ours.

Source: PS3.2 Annex N (2024c to 2025a, and its form of 2026d).
"""

from __future__ import annotations

from typing import Final, NamedTuple

ENTITIES: Final = ("LISTENER", "PULL", "STORE")
"""Application entities: receives associations, requests associations, takes instances over HTTP."""


class TemplateSection(NamedTuple):
    """One section of the statement."""

    number: str
    title: str

    @property
    def depth(self) -> int:
        """Level of its heading, 1 for a chapter."""
        return len(self.number.removeprefix("A.").split("."))

    @property
    def anchor(self) -> str:
        """Its place in the document, as links name it."""
        words = f"{self.number} {self.title}".lower()
        return "".join("-" if letter == " " else letter for letter in words if letter.isalnum() or letter in " -_")


_BEFORE: Final = """
1 Overview
1.1 Content and Transfer
1.1.1 Structured Reporting Root Template IDs
1.2 DIMSE Services
1.2.1 Verification
1.2.2 Storage
1.2.3 Workflow Management
1.2.4 Query/Retrieve
1.2.5 Printing
1.3 DICOM Web Services
1.3.1 URI Service
1.3.2 Studies Service
1.3.3 Worklist Service
1.3.4 Non-Patient Instance Service
1.3.5 Storage Commitment Service
1.3.6 Modality Scheduled Procedure Step Service
1.3.7 Modality Performed Procedure Step Service
1.4 Media Services
1.5 Real-Time Video Service
1.6 De-identification Profiles
1.7 Specific Character Sets
2 Table of Contents
3 Introduction
3.1 Revision History
3.2 Audience
3.3 Remarks
3.4 Terms and Definitions
3.5 Abbreviations
3.6 References
4 Implementation Model
4.1 Application Entities and Data Flow
"""
_SERVICES: Final = """
5 Service and Interoperability Description
5.1 Mapping of Services to Application Entities
5.2 DIMSE Services
5.2.1 Basic Worklist Management Service
5.2.2 Modality Performed Procedure Step Service
5.2.3 Unified Worklist and Procedure Step Service
5.2.4 Instance Availability Notification Service
5.2.5 Storage Service
5.2.5.1 SCU of the Storage SOP Classes
5.2.5.1.1 Transcoding of Transfer Syntaxes
5.2.5.2 SCP of the Storage SOP Classes
5.2.6 Storage Commitment Service
5.2.6.1 SCU of the Storage Commitment Push Model SOP Class
5.2.6.2 SCP of the Storage Commitment Push Model SOP Class
5.2.7 Query/Retrieve Service Class
5.2.7.1 SCU of the Study Root Q/R Information Model - FIND SOP Class
5.2.7.2 SCU of the Study Root Q/R Information Model - MOVE SOP Class
5.2.7.3 SCU of the Study Root Q/R Information Model - GET SOP Class
5.2.7.4 SCU of Further Query/Retrieve SOP Classes
5.2.7.5 SCP of the Study Root Q/R Information Model - FIND SOP Class
5.2.8 Print Management Service
5.3 DICOM Web Services
5.3.1 URI Web Service
5.3.2 Studies Web Service
5.3.2.1 Media Types
5.3.2.2 Retrieve Transaction (WADO-RS)
5.3.2.3 Store Transaction (STOW-RS)
5.3.2.3.1 User Agent
5.3.2.3.2 Origin Server
5.3.2.4 Search Transaction (QIDO-RS)
5.3.3 Worklist Web Service
5.3.4 Non-Patient Instance Web Service
5.3.5 Notification Web Service
5.3.6 Storage Commitment Web Service
5.3.7 Modality Scheduled Procedure Step Web Service
5.3.8 Modality Performed Procedure Step Web Service
5.4 Media Services
5.5 Real-Time Video Services
5.6 Cross-Service Considerations
5.7 Specific Character Sets
6 Configuration
6.1 General Configuration Parameters
6.2 Configuration of DIMSE Services
6.2.1 Basic Worklist Management Service
6.2.2 Modality Performed Procedure Step Service
6.2.3 Unified Worklist and Procedure Step Service
6.2.4 Instance Availability Notification Service
6.2.5 Storage Service
6.2.6 Storage Commitment Service
6.2.7 Query/Retrieve Service
6.2.8 Print Management Service
6.3 Configuration of DICOM Web Services
6.3.1 URI Web Service
6.3.2 Studies Web Service
6.3.3 Worklist Web Service
6.3.4 Non-Patient Instance Web Service
6.3.5 Storage Commitment Web Service
6.3.6 Modality Scheduled Procedure Step Web Service
6.3.7 Modality Performed Procedure Step Web Service
6.4 Configuration of Media Storage Service
6.5 Configuration of Real-Time Video Service
6.6 Configuration of Audit Trail - Syslog
7 Network and Media Communication Details
7.1 General
7.1.1 General Association Parameters
7.2 Specifications
"""
_AFTER: Final = """
7.3 Status Codes
7.3.1 General AE Communication and Failure Behavior and Handling
7.3.1.1 Communication Failure Behavior as Association Initiator
7.3.1.2 Communication Failure Handling as Association Acceptor
7.3.2 DIMSE Services
7.3.2.1 Basic Worklist Management Service
7.3.2.2 Modality Performed Procedure Step Service
7.3.2.3 Unified Worklist and Procedure Step Service
7.3.2.4 Instance Availability Notification Service
7.3.2.5 Storage Service
7.3.2.5.1 SCU of the Storage SOP Classes - C-STORE
7.3.2.5.2 SCP of the Storage SOP Classes - C-STORE
7.3.2.6 Storage Commitment Service
7.3.2.6.1 SCU of the Storage Commitment Push Model SOP Class - N-ACTION
7.3.2.6.2 SCU of the Storage Commitment Push Model SOP Class - N-EVENT-REPORT
7.3.2.6.3 SCP of the Storage Commitment Push Model SOP Class - N-ACTION
7.3.2.6.4 SCP of the Storage Commitment Push Model SOP Class - N-EVENT-REPORT
7.3.2.7 Query/Retrieve Service
7.3.2.7.1 SCU of the Query/Retrieve FIND SOP Classes - C-FIND
7.3.2.7.2 SCU of the Query/Retrieve MOVE SOP Classes - C-MOVE
7.3.2.7.3 SCU of the Query/Retrieve GET SOP Classes - C-GET
7.3.2.8 Print Management Service
7.3.3 DICOM Web Services
7.3.3.1 General
7.3.3.2 URI Web Service
7.3.3.2.1 URI Web Service as Origin Server
7.3.3.2.2 URI Web Service as User Agent
7.3.3.3 Studies Web Service
7.3.3.3.1 Retrieve Transaction as Origin Server
7.3.3.3.2 Retrieve Transaction as User Agent
7.3.3.3.3 Store Transaction as Origin Server
7.3.3.3.4 Store Transaction as User Agent
7.3.3.3.5 Search Transaction as Origin Server
7.3.3.3.6 Search Transaction as User Agent
7.3.3.4 Worklist Web Service
7.3.3.5 Non-Patient Instance Web Service
8 Security
8.1 Introduction
8.2 External Network Requirements
8.3 TCP Port Configuration
8.4 DICOM Security Profiles Support
8.4.1 Secure Use and User Identity Profiles
8.4.2 Secure Transport Connection Profiles
8.4.3 Media Storage Security Profiles
8.4.4 Attribute Confidentiality Profiles
8.4.5 Digital Signature Profiles
8.4.6 Additional DICOM Security Profiles
8.5 User Identity Negotiation Support
8.5.1 Association Initiation
8.5.2 Association Acceptance
8.6 Web Services Security Features
8.7 Other Security Features
8.7.1 Media Storage Security
8.7.2 Network Security
8.7.3 Other Security Features
A.A Information Object Definitions (IODs)
A.A.1 Information Shared Across Multiple IODs
A.A.1.1 Common Modules
A.A.1.2 Common Functional Group Macros
A.A.1.3 Common Private Modules
A.A.1.4 Coded Values
A.A.2 De-identified Instances
A.B Structured Report Content Encoding
A.C Security Details
A.C.1 External Network Requirement Details
A.C.1.1 Time Synchronization
A.C.1.2 Network Address Management
A.C.1.3 Application Configuration Management
A.C.1.4 DNS Service Discovery
A.C.2 DICOM Security Profile Details
A.C.2.1 Online Electronic Storage
A.C.2.2 Audit Trail Message Format
A.C.2.3 Audit Trail Message Transmission - Syslog-TLS
A.C.2.4 Audit Trail Message Transmission - Syslog-UDP
A.C.2.5 Secure Transport Connection Details
A.C.2.6 Attribute Confidentiality Details
A.C.2.7 Digital Signature Details
A.C.2.8 Additional Security Profile Details
A.D Mapping of Attributes
A.E Code Set Usage
"""


def _of_entities() -> str:
    lines = []
    for number, name in enumerate(ENTITIES, 1):
        lines += [
            f"7.2.{number} {name} Application Entity",
            f"7.2.{number}.1 Sequencing of Real-World Activities for {name}",
            f"7.2.{number}.2 Association Parameters of {name}",
            f"7.2.{number}.3 Association Initiation of {name}",
            f"7.2.{number}.4 Association Acceptance of {name}",
        ]
    return "\n".join(lines)


def _definitions() -> str:
    return "\n".join(
        f"4.1.{number} Functional Definition of {name} Application Entity" for number, name in enumerate(ENTITIES, 1)
    )


def _parsed(text: str) -> tuple[TemplateSection, ...]:
    return tuple(TemplateSection(*line.split(" ", 1)) for line in text.splitlines() if line)


SECTIONS: Final = _parsed(f"{_BEFORE}\n{_definitions()}\n{_SERVICES}\n{_of_entities()}\n{_AFTER}")
"""Every section, in order."""
